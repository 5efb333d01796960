// KvmMachine: a guest on the KVM API, run by this process.
//
// Threads. Each vCPU has one, which answers the exits of its own devices' registers. Everything else happens
// on the event loop's thread: queues of virtio devices, the serial port's output, events, pauses. So while
// the loop's thread holds the vCPUs, the devices stand still too.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "host/machine/kvm/guest_clock.h"
#include "host/machine/kvm/kvm_guest.h"
#include "host/machine/kvm/kvm_traps.h"
#include "host/machine/kvm/loop_bell.h"
#include "host/machine/kvm/vcpu_exits.h"
#include "host/machine/kvm/vcpu_threads.h"
#include "host/machine/machine.h"
#include "host/machine/vcpu_clock.h"

namespace ktstr::kvm {

struct KvmMachineOptions {
  std::optional<TrapKind> traps = std::nullopt;  // nullopt: breakpoints where they work, else port traps
  HostUse host_use = {};
};

// Beyond what Machine says:
//   * Everything the guest wrote is handed to the receivers before kPoweredOff, kReset or kDied.
//   * After these three events RAM is still there, and registers are too, until stop.
//   * Receivers may call stop, but not destroy the machine. stop hands on what the guest has written until
//   then.
//   * Port traps that are set before start are in force once the kernel has prepared its tracing sites, early
//   in its boot.
class KvmMachine final : public Machine {
 public:
  // `spec` has passed check_kvm_limits.
  KvmMachine(boost::asio::io_context& loop, BootSpec spec, KvmMachineOptions options);
  ~KvmMachine() override;
  KvmMachine(const KvmMachine&) = delete;
  KvmMachine& operator=(const KvmMachine&) = delete;

  std::string_view kind() const override { return "kvm"; }
  const KernelCommandLine& command_line() const override { return command_line_; }
  Emulator emulator() const override { return {}; }
  SnapshotTerms snapshot_terms() const override;
  std::vector<std::string> warnings() const override { return warnings_; }

  void set_console_receiver(ConsoleReceiver receiver) override { console_receiver_ = std::move(receiver); }
  void set_event_receiver(EventReceiver receiver) override { event_receiver_ = std::move(receiver); }
  FrameLink& frames() override { return frames_; }

  Expected<void> start() override;
  Expected<PauseReport> pause(std::chrono::nanoseconds limit) override;
  Expected<void> resume() override;
  Expected<std::string> save(const SnapshotFiles& files) override;
  Expected<void> set_traps(std::vector<std::uint64_t> addresses) override;
  // Replaces all watchpoints: the guest stops after an instruction on any vCPU that has written there, with
  // the event kWritten. At most KvmTraps::kWatchpoints; each takes a debug register that a trap could have
  // had. Before start, or any time later. Errors: kUsage for too many, a size that is not 1, 2, 4 or 8 and an
  // address that is no multiple of it; kHost.
  Expected<void> set_watchpoints(std::vector<Watchpoint> watchpoints);
  void stop() override;

  std::vector<RamRegion> ram() const override;
  Expected<VcpuRegisters> registers(std::uint32_t cpu) override;
  VcpuTime vcpu_time() const override { return clock_.read(); }

  MachineStatistics statistics() const override;

 private:
  enum class State { kCreated, kRunning, kPaused, kEnded };

  class Frames final : public FrameLink {
   public:
    explicit Frames(KvmMachine& machine) : machine_(machine) {}
    void set_receiver(Receiver receiver) override { receiver_ = std::move(receiver); }
    Expected<void> send(std::string_view bytes) override;
    bool can_send() const override { return true; }
    std::string_view guest_address() const override { return "virtio:ktstr.frames"; }
    void receive(std::span<const std::byte> bytes) {
      if (receiver_) receiver_(bytes);
    }

   private:
    KvmMachine& machine_;
    Receiver receiver_;
  };

  // What a vCPU's thread has to say to the loop.
  struct Message {
    std::uint32_t cpu = 0;
    std::optional<TrapHit> hit = std::nullopt;
    std::optional<GuestEnd> end = std::nullopt;  // neither: the sites of the traps are there
    std::string detail = {};
  };

  // How long the other vCPUs get to come when one has hit a trap or the guest has ended.
  static constexpr std::chrono::seconds kRendezvousLimit{10};

  bool alive() const { return state_ == State::kRunning || state_ == State::kPaused; }
  Expected<void> build();
  void post(Message message);
  // For a call from a vCPU's thread: nothing happens once the machine has given that thread up.
  template <typename Call>
  auto on_vcpu(Call call) const {
    return [there = there_, call]<typename... Arguments>(Arguments&&... arguments) {
      const std::lock_guard lock(there->mutex);
      if (there->machine) call(std::forward<Arguments>(arguments)...);
    };
  }
  void on_bell();
  // All vCPUs are parked: those that were held at a trap hit it again when they run. Those that have written
  // do not: true when there are such.
  bool forget_hits();
  void keep_writes(std::span<const Message> messages);
  // Applies what `change` has set, on a running machine too.
  Expected<void> change_traps(const std::function<void()>& change);
  void on_hit(const Message& message);
  void finish(const Message& message);
  void announce(const MachineEvent& event);
  // Hands on what the guest has written; false when a receiver has stopped the machine.
  bool drain();
  // Works on the console's queues; true: there is more. Afterwards the machine may have been stopped.
  bool serve_console();
  void drain_serial();
  // Shows what the guest has written without anything that brings it to us.
  void arm_look_at_writes();
  void end_vcpus();
  // All vCPUs are parked: notes the guest's clock, and takes the writes that KVM has collected.
  void hold_clock();
  Expected<void> apply_traps();
  // On a vCPU's thread, after its exit was answered: port traps that wait for their sites.
  void look_for_sites(Vcpu& vcpu);
  void set_waiting_traps();
  Expected<void> choose_trap_kind();

  boost::asio::io_context& loop_;
  BootSpec spec_;
  KvmMachineOptions options_;
  Frames frames_;
  KernelCommandLine command_line_;
  std::vector<std::string> warnings_;
  ConsoleReceiver console_receiver_;
  EventReceiver event_receiver_;

  State state_ = State::kCreated;
  LoopBell bell_;      // rung by vCPUs' threads and devices
  LoopBell doorbell_;  // rung by KVM for the console's driver
  boost::asio::steady_timer look_at_writes_;
  KvmTraps traps_;
  std::vector<std::uint64_t> trap_addresses_;  // changed only while no vCPU runs
  std::vector<Watchpoint> watchpoints_;        // likewise
  std::atomic<bool> traps_wait_ = false;       // for their sites
  std::unique_ptr<KvmGuest> guest_;
  bool console_lost_ = false;          // told already
  bool serving_ = false;               // inside of serve_console()
  std::unique_ptr<KvmGuest> retired_;  // stopped by a receiver meanwhile
  std::unique_ptr<VcpuExits> exits_;
  std::unique_ptr<VcpuThreads> threads_;
  // Whether there is a machine for the threads to call. A thread that did not end outlives it.
  struct There {
    std::mutex mutex;
    bool machine = true;
  };
  std::shared_ptr<There> there_ = std::make_shared<There>();
  std::mutex messages_mutex_;
  std::vector<Message> messages_;
  PauseReport pause_;                         // of the present pause
  GuestClock guest_clock_;                    // held then, if all vCPUs came
  std::optional<std::uint32_t> trapped_cpu_;  // announced, stands at its trap
  mutable VcpuClock clock_;
};

}  // namespace ktstr::kvm
