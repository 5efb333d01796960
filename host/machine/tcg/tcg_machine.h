// TcgMachine: a machine emulated by a QEMU process, for hosts without hardware virtualization.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "host/machine/machine.h"
#include "host/machine/tcg/child_process.h"
#include "host/machine/tcg/guest_memory_files.h"
#include "host/machine/tcg/guest_traps.h"
#include "host/machine/tcg/kernel_arguments.h"
#include "host/machine/tcg/one_host_cpu.h"
#include "host/machine/tcg/qemu_finder.h"
#include "host/machine/tcg/qemu_launch.h"
#include "host/machine/tcg/qmp_client.h"
#include "host/machine/tcg/stream_port.h"
#include "host/machine/tcg/tcg_frame_links.h"
#include "host/machine/vcpu_clock.h"

namespace ktstr {

// Beyond what Machine says:
//   * The thread that calls start must live as long as the machine: QEMU is killed when that thread ends
//     (child_process.h).
//   * Everything the guest wrote is handed to the receivers before kPoweredOff, kReset or kDied.
//   * After these three events RAM is still there, until stop; registers are not.
//   * Receivers may call stop, but not destroy the machine.
//   * VcpuRegisters::kernel_gs_base is 0: QEMU's monitor does not show it.
class TcgMachine : public Machine {
 public:
  // Errors: kHost when there is no usable QEMU; kUsage when this QEMU cannot run deterministically; as of
  // check_pc_limits.
  static Expected<std::unique_ptr<Machine>> create(boost::asio::io_context& loop, BootSpec spec,
                                                   bool single_thread);
  // The same with a QEMU that was found already. `spec` has passed check_pc_limits.
  TcgMachine(boost::asio::io_context& loop, BootSpec spec, Qemu qemu, bool single_thread);
  ~TcgMachine() override;
  TcgMachine(const TcgMachine&) = delete;
  TcgMachine& operator=(const TcgMachine&) = delete;

  std::string_view kind() const override { return "tcg"; }
  const KernelCommandLine& command_line() const override { return command_line_; }
  Emulator emulator() const override { return {qemu_.path, qemu_.version, argv_}; }
  SnapshotTerms snapshot_terms() const override;
  std::vector<std::string> warnings() const override { return warnings_; }

  void set_console_receiver(ConsoleReceiver receiver) override { console_receiver_ = std::move(receiver); }
  void set_event_receiver(EventReceiver receiver) override { event_receiver_ = std::move(receiver); }
  FrameLink& frames() override { return *frames_; }

  Expected<void> start() override;
  Expected<PauseReport> pause(std::chrono::nanoseconds limit) override;
  Expected<void> resume() override;
  Expected<void> set_traps(std::vector<std::uint64_t> addresses) override;
  void stop() override;

  Expected<std::string> save(const SnapshotFiles& files) override;
  std::vector<RamRegion> ram() const override { return ram_; }
  Expected<VcpuRegisters> registers(std::uint32_t cpu) override;
  VcpuTime vcpu_time() const override { return clock_.read(); }
  MachineStatistics statistics() const override {
    return {.first_run = std::nullopt, .exits = {}, .vcpus = clock_.read_each()};
  }

  // Process id of QEMU, -1 when none runs.
  pid_t qemu_pid() const { return child_ ? child_->pid() : -1; }

 private:
  enum class State { kCreated, kRunning, kPaused, kEnded };

  bool alive() const { return state_ == State::kRunning || state_ == State::kPaused; }
  Expected<void> launch();
  Expected<void> connect(LaunchedQemu& qemu);
  Expected<void> begin_guest();
  Expected<void> keep_on_one_cpu();
  Expected<void> load_snapshot();
  Expected<void> check_cpu_flags(const nlohmann::json& cpu);
  // What to say when QEMU did not come up.
  Error startup_error(Error&& error);
  Expected<std::shared_ptr<StreamPort>> open_port(UniqueFd fd, StreamPort::Receiver receiver);
  Expected<void> watch(boost::asio::posix::stream_descriptor& watcher, int fd,
                       void (TcgMachine::*on_ready)());
  void rewatch(boost::asio::posix::stream_descriptor& watcher, void (TcgMachine::*on_ready)());

  void on_qmp_readable();
  void on_process_end();
  // Acts on events now, or, from inside a call of ours, in the next turn of the loop.
  void handle_events();
  void handle_events_later();
  // The guest has stopped, and nobody asked.
  void on_stop();
  // QEMU stopped for a breakpoint: finds who hit.
  void on_hit();
  Expected<std::vector<std::uint64_t>> instruction_pointers();
  // Moves the vCPU whose trap was announced over it.
  Expected<void> leave_trap();
  Expected<void> step(std::uint32_t cpu);
  Expected<void> go_on();
  // Drops the STOP events of stops that we asked for.
  void forget_own_stops();
  PauseReport empty_report() const;
  void drain_ports();
  // Hands on everything that QEMU still has for us; QEMU is stopped and its main loop runs.
  void settle();
  void end_process();
  void close_all();
  // The machine has ended by itself: delivers what is left, then the event.
  void finish(const MachineEvent& event);
  void announce(const MachineEvent& event);

  boost::asio::io_context& loop_;
  BootSpec spec_;
  Qemu qemu_;
  std::unique_ptr<TcgFrameLink> frames_;
  KernelCommandLine command_line_;
  std::vector<std::string> argv_;
  std::vector<std::string> warnings_;
  ConsoleReceiver console_receiver_;
  EventReceiver event_receiver_;

  State state_ = State::kCreated;
  std::optional<ChildProcess> child_;
  std::optional<OneHostCpu> host_cpu_;  // of a deterministic guest
  std::optional<QmpClient> qmp_;
  std::optional<GuestMemoryFiles> memory_;
  UniqueFd state_file_;  // where QEMU saves devices to; of a clone: none
  std::vector<RamRegion> ram_;
  std::vector<std::shared_ptr<StreamPort>> ports_;  // serial, hvc, frames, QEMU's own output
  std::string output_;                              // last words of QEMU
  boost::asio::posix::stream_descriptor qmp_watch_;
  boost::asio::posix::stream_descriptor exit_watch_;
  bool own_stop_pending_ = false;  // a stop whose answer did not come in time
  std::vector<QmpEvent> events_;
  std::vector<std::optional<VcpuRegisters>> registers_;  // of the present pause
  GuestTraps traps_;
  struct Trapped {
    std::uint32_t cpu = 0;
    std::uint64_t address = 0;
  };
  std::optional<Trapped> trapped_;  // announced, not yet stepped over
  std::uint32_t last_trapped_ = 0;  // vCPU of the last announcement
  mutable VcpuClock clock_;
  // Handlers on the loop hold a weak reference and do nothing once the machine is gone.
  std::shared_ptr<TcgMachine*> self_;
};

}  // namespace ktstr
