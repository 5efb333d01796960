// GuestTraps: the breakpoints of a tcg machine, and how one is got over.
//
// Two connections lead to QEMU. QMP starts and stops the guest and reports hits; the gdb stub only sets
// breakpoints and steps, and hears nothing while the guest runs. What that rests on (tried with QEMU 7.2 and
// 10):
//
//   * Breakpoints are matched by virtual address on every vCPU, whatever CR3 is (accel/tcg/tcg-accel-ops.c,
//     tcg_insert_breakpoint); for tcg Z0 and Z1 are the same. The instruction is not patched, so the guest
//     cannot see them. They can be set before the guest's first instruction and outlive resets of a vCPU.
//   * A hit stops QEMU with the run state "debug" and QMP's event STOP, which comes when all vCPUs are parked
//     (system/cpus.c, do_vm_stop). The stub is silent then: it reports a stop only to who continued the guest
//     through it (gdbstub/system.c, gdb_vm_state_change: allow_stop_reply).
//   * The event does not say who hit. Every vCPU whose rip is at a trap stands *before* that instruction:
//     breakpoints are looked up before an instruction is executed. So comparing all vCPUs' rips with the
//     traps finds all that hit, and those that were parked just there and would hit next, which is the same
//     thing.
//   * Continuing hits again at once for each vCPU that stands at a trap. That is how no hit is lost: one that
//     came while we stopped the guest ourselves, or at the same time as another vCPU's, comes again as an
//     event of its own. Only the vCPU whose event was handed out must be moved on first.
//   * "vCont;s:N" moves only vCPU N, by one instruction, holding back its interrupts; the others stay parked.
//     A stepping vCPU ignores breakpoints (accel/tcg/cpu-exec.c, check_for_breakpoints_slow: "singlestep
//     overrides breakpoints"), so the breakpoint at its rip need not be taken out, and there is no moment in
//     which another vCPU could slip past it. The stop after it makes QEMU throw away all translated code
//     (gdb_vm_state_change, tb_flush): some 20 ms until a busy guest is as fast again. QEMU tells QMP of the
//     step as RESUME and STOP; the latter comes before the answer to the next command. Single-stepping ends
//     with the stub's report of the stop.
//   * A step can end without any instruction executed: somebody wanted the vCPU's attention, say for an
//     interrupt that is held back, before its block of code had begun, and QEMU takes leaving the block for
//     the end of the step (accel/tcg/cpu-exec.c, cpu_tb_exec). So the registers have to be looked at.
//   * A hit is noted by the vCPU thread and acted on by the main loop. When the guest is stopped and
//     continued in between, QEMU forgets the note (system/cpus.c, vm_prepare_start), and the vCPU hits again.
//
// So a hit goes: STOP, query-status says "debug", registers of all vCPUs, event. And resume: vCont;s until
// something has changed, cont.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/machine/tcg/gdb_client.h"

namespace ktstr {

class GuestTraps {
 public:
  // Sets which traps there should be; nothing happens yet. Error kHost when there are more than kMaxTraps,
  // and then the traps stay as they were.
  Expected<void> want(std::vector<std::uint64_t> addresses);
  bool wanted(std::uint64_t address) const;

  // How the guest's timers are treated while one vCPU makes a step. With the instruction clock they stand:
  // that clock would take the guest, whose other vCPUs wait for the step, for idle and go on to the next
  // timer, and the next, until the end of days.
  enum class StepTimers { kRun, kStand };

  // The stub's socket. No breakpoint is set yet.
  void connect(UniqueFd socket, StepTimers timers = StepTimers::kRun);
  void disconnect();

  // What follows needs a stopped guest.

  // Makes the stub's breakpoints those that are wanted. Errors as of GdbClient.
  Expected<void> apply(std::chrono::nanoseconds limit);
  // Moves one vCPU by one instruction, or not at all. QMP's events of that have come when the next QMP
  // command is answered.
  Expected<void> step(std::uint32_t cpu, std::chrono::nanoseconds limit);
  // To be called before the guest goes on: GdbClient::drain.
  void settle();

  // Of vCPUs with these instruction pointers, the one at a trap that comes first after `last`, going round:
  // nobody waits for ever while others hit again and again.
  std::optional<std::uint32_t> next_trapped(std::span<const std::uint64_t> rips, std::uint32_t last) const;

 private:
  std::vector<std::uint64_t> wanted_;  // ascending
  std::vector<std::uint64_t> set_;     // what the stub has
  std::optional<GdbClient> gdb_;
  bool prepared_ = false;  // the stub knows how steps are wanted
  StepTimers timers_ = StepTimers::kRun;
};

}  // namespace ktstr
