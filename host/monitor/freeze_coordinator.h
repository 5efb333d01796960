// FreezeCoordinator: stops a guest at the instant its scheduler fails, has its state copied, and lets it go
// on.
//
// The guest meets a trap (exit_traps.h). While it stands still only two things happen: registers are read,
// and objects are copied. Reading the copies, rendering and writing come after the resume. The dump is not
// handed out at once: a moment later the kernel has composed its message, and then its own dump, and traps on
// that way let us add both. It is handed out complete, or as it is when the next dump begins or the run ends.
//
// How exact is "the instant"? The vCPU at the trap has not executed the function's first instruction. The
// others run on until they are parked; how long that may be is in the header, and no claim of zero skew is
// made.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/inspect/scx/scx_dumper.h"
#include "host/kernel/vmcoreinfo.h"
#include "host/machine/machine.h"
#include "host/monitor/exit_traps.h"
#include "proto/dump.pb.h"

namespace ktstr {

class FreezeCoordinator {
 public:
  struct Options {
    // End the guest after the dump of a failed scheduler, in place of letting it go on.
    bool stop_on_trap = false;
    // Leave the place alone where the error is claimed; freeze before the kernel's own dump.
    bool before_kernel_dump = false;
    // Only what fails may hit a trap: schedulers that end in good order pass the backstop in some kernels,
    // and in a deterministic guest that would be the end of its determinism.
    bool claim_only = false;
    // Where the kernel runs is known: it was booted without KASLR.
    bool no_kaslr = true;
    // How long vCPUs may take to stop, host time.
    std::chrono::nanoseconds rendezvous_limit = std::chrono::seconds(5);
    // Dumps taken of one run, at most.
    std::uint32_t max_dumps = 64;
  };
  struct Receivers {
    // Takes a finished dump; `number` counts from 1.
    std::function<void(std::uint32_t number, ktstr::v1::Dump&& dump)> on_dump;
    // The guest stands still, dump `number` is being taken. Whatever is done here prolongs that. Writes what
    // belongs to the dump and is made of the guest itself, a core; without it the dump is incomplete.
    std::function<Expected<void>(std::uint32_t number, const StoppedGuest& guest)> on_stopped = {};
    // Something a person should know: what could not be done, and why.
    std::function<void(const std::string& text)> on_note;
    // The guest is, or was, stopped: a deterministic run is no function of its inputs from here on.
    std::function<void(const std::string& why)> on_disturbance;
  };

  // Both must outlive this.
  FreezeCoordinator(Machine& machine, ScxDumper& dumper, Options options, Receivers receivers);

  // Sets the traps of a machine that was not started, when the kernel's place is known beforehand.
  Expected<void> arm_before_start();
  // Sets them on a running one: stops it for an instant to find the kernel. Nothing when they are set.
  Expected<void> arm_running();
  bool armed() const { return armed_; }

  // How long the guest has stood still for dumps and traps until now, host time.
  std::chrono::nanoseconds stood_still() const { return stood_still_; }
  // After on_trap() returned false: what the scheduler failed of, "SCX_EXIT_ERROR_STALL", with the message
  // behind it where that is known.
  const std::string& failure() const { return failure_; }

  // What the guest said of itself.
  void set_vmcoreinfo(Gpa gpa, std::uint64_t size) { vmcoreinfo_at_ = {gpa, size}; }
  // The text of that note, of the stopped guest; empty when there is none.
  std::string vmcoreinfo_text() const;

  // The machine stands at a trap. Resumes it; false when it is to be ended instead.
  bool on_trap(const MachineEvent& event);
  // Stops the guest, copies, resumes it. `reason` as DumpHeader has it. Errors: the machine cannot be
  // stopped, or its kernel not found; it runs then (if it lives).
  Expected<void> dump_now(const std::string& reason, bool resume = true);
  // Hands out what waits for the kernel's words.
  void finish();

  std::uint32_t dumps() const { return dumps_; }

 private:
  struct Pending {
    ktstr::v1::Dump dump;
    Kva exit_info;      // of the scheduler that failed
    std::size_t sched;  // its index in the dump
    // Why the message is not there, or not all of it.
    std::string message_problem;
  };
  // How the guest came to stand still.
  struct Stop {
    std::string reason;
    const ExitTrap* trap = nullptr;
    std::uint64_t address = 0;
    std::uint32_t cpu = 0;
    Kva sched;
    std::uint64_t kind = 0;
    PauseReport pause;
    std::chrono::steady_clock::time_point since;
    // Of a claim: the message that the kernel is about to make, and which function was told.
    ExpandedFormat message = {};
    std::string told = {};
    std::string trapped_by = {};  // MachineEvent::trapped_by
  };

  Expected<void> set_traps();
  void change_traps();
  Expected<void> resume(std::chrono::steady_clock::time_point since);
  void listen(const ExitTrap& trap, std::uint32_t cpu, const VcpuRegisters& registers);
  void take_message(const VcpuRegisters& registers, Stop& stop);
  void add_message(const Stop& stop, Pending& pending) const;
  std::string name_of_kind(std::uint64_t kind) const;
  GuestMemory memory() const;
  std::vector<std::optional<VcpuRegisters>> all_registers();
  Expected<void> locate(std::span<const std::optional<VcpuRegisters>> registers);
  std::uint64_t exit_kind_of(KernelMemory& memory, Kva sched) const;
  Kva root_sched(KernelMemory& memory) const;
  bool worth_a_dump(const ExitTrap& trap, const VcpuRegisters& registers, Stop& stop);
  Expected<void> freeze(const Stop& stop, bool go_on);
  void add_exit_info(const char* when);
  void fill_header(const Stop& stop, std::chrono::nanoseconds frozen, ktstr::v1::DumpHeader& header) const;
  const ExitTrap* trap_at(std::uint64_t address) const;
  void note(const std::string& text) const;

  Machine& machine_;
  ScxDumper& dumper_;
  Options options_;
  Receivers receivers_;
  std::vector<ExitTrap> traps_;
  bool armed_ = false;
  bool await_kernel_dump_ = false;  // the third trap is set
  std::uint32_t dumps_ = 0;
  std::uint32_t idle_hits_ = 0;
  std::optional<Pending> pending_;
  // What the last function of role kTold was told, and on which vCPU.
  struct Heard {
    std::uint32_t cpu = 0;
    std::string symbol;
    ExpandedFormat message;
  };
  std::optional<Heard> heard_;
  std::string failure_;
  std::chrono::nanoseconds stood_still_{};
  CapturedMemory arena_;
  std::optional<std::pair<Gpa, std::uint64_t>> vmcoreinfo_at_;
};

}  // namespace ktstr
