// KvmTraps: stops a vCPU before it executes the instruction at an address, and after it has written to one.
//
// Two ways to stop at an instruction.
//   * Hardware breakpoints (KVM_SET_GUEST_DEBUG, api.rst 4.87): the CPU's debug registers, four of them, in
//   any code, unseen by
//     the guest. Intel and AMD both have them; a hypervisor below ours may not pass them on (QEMU 7.2's
//     emulation does not).
//   * Port traps: `out %al, $0xf4`, two bytes, written over the call site of the function tracer that a
//   kernel function begins
//     with: a five-byte nop, or, while something is attached to it, a call (arch/x86/kernel/ftrace.c). The
//     OUT is an exit to user space on every KVM. It needs a kernel with CONFIG_DYNAMIC_FTRACE and works for
//     functions only. The site is the function's first instruction, or its second behind an endbr64
//     (CONFIG_X86_KERNEL_IBT), which the kernel overwrites with a nop of its own where no indirect call goes
//     (apply_seal_endbr()). All five bytes are replaced, by the OUT and a three-byte nop: so a vCPU that was
//     about to return into the middle of them executes what is there, and resuming needs no single step: the
//     nop is skipped, or the call is made, by setting registers. The rest of the kernel does not know: a
//     tracer that is attached to the function while the trap is there finds a site that it does not
//     recognise, and warns.
//
// A vCPU that hits a trap while another hit is being looked at is held before the instruction, so that it
// hits again afterwards. If an interrupt comes for it meanwhile, the handler runs first and then returns to
// the instruction. That hits a breakpoint only if the flags that were saved for the handler have RF clear; a
// processor sets it there for faults (Intel SDM vol. 3B, 18.3.1.1), and QEMU 10's emulation for
// interrupts too (do_interrupt64() of target/i386/tcg/seg_helper.c), so that the return goes past the
// breakpoint. Seen in nested KVM: of 40 calls by two vCPUs one or two were missed. A port trap has no flags
// to lose; breakpoint_defect() finds out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/machine/kvm/devices/guest_ram_view.h"
#include "host/machine/kvm/kvm_requests.h"
#include "host/machine/kvm/vcpu.h"
#include "host/machine/machine.h"

namespace ktstr::kvm {

// Writes of `size` bytes (1, 2, 4, 8) at `address`, a multiple of it.
struct Watchpoint {
  std::uint64_t address = 0;
  std::uint32_t size = 8;
  bool operator==(const Watchpoint&) const = default;
};

struct TrapHit {
  std::uint64_t address = 0;  // as it was set
  bool watchpoint = false;    // the vCPU has written; else it is about to execute
  TrapKind kind = TrapKind::kBreakpoint;
};

class KvmTraps {
 public:
  static constexpr std::size_t kBreakpoints = 4;  // of the CPU, for both uses
  static constexpr std::size_t kWatchpoints = 3;

  // How instructions are trapped; before the first set().
  void set_kind(TrapKind kind) { kind_ = kind; }
  TrapKind kind() const { return kind_; }

  // Replaces all; every vCPU is parked. Instructions beyond what there are debug registers for become port
  // traps. `sites_ready` false: the kernel has not prepared its tracing sites, port traps are left out.
  // Errors kHost: too many watchpoints; no tracing site at the address of a port trap, or it cannot be
  // translated.
  Expected<void> set(std::vector<Vcpu>& vcpus, const GuestRamView& ram,
                     const std::vector<std::uint64_t>& instructions, const std::vector<Watchpoint>& writes,
                     bool sites_ready = true);
  // Those of `instructions` that set() makes port traps.
  std::span<const std::uint64_t> port_traps(const std::vector<std::uint64_t>& instructions,
                                            std::size_t watchpoints) const;

  // Whether the tracing sites of these are there; asked on a vCPU's thread.
  static bool sites_ready(Vcpu& vcpu, const GuestRamView& ram, std::span<const std::uint64_t> instructions);

  // What KVM_EXIT_DEBUG, or a write to the trap's port, of this vCPU was; nullopt: none of ours. On the
  // vCPU's thread; leaves the vCPU before the instruction.
  std::optional<TrapHit> debug_hit(Vcpu& vcpu) const;
  std::optional<TrapHit> port_hit(Vcpu& vcpu) const;

  // Takes port traps out of guest memory, for somebody who keeps a copy of it, and puts them there again.
  void lift(const GuestRamView& ram) const;
  void put_back(const GuestRamView& ram) const;

  // Lets a vCPU whose hit was announced go past the instruction when it runs next.
  Expected<void> pass(Vcpu& vcpu, const GuestRamView& ram) const;

 private:
  struct Site {
    std::uint64_t address = 0;  // as it was set
    std::uint64_t site = 0;     // of the five bytes
    std::uint64_t gpa = 0;
    std::array<std::byte, 5> original = {};
  };
  static Expected<Site> find_site(std::span<Vcpu> vcpus, const GuestRamView& ram, std::uint64_t address);
  Expected<void> set_registers(std::vector<Vcpu>& vcpus);

  TrapKind kind_ = TrapKind::kBreakpoint;
  std::vector<std::uint64_t> breakpoints_;  // in debug registers
  std::vector<Watchpoint> watchpoints_;     // behind them
  std::vector<Site> sites_;                 // port traps that are in place
};

// The guest-physical address of a kernel virtual one, by the page tables of any of the (parked) vCPUs.
Expected<std::uint64_t> translate(std::span<Vcpu> vcpus, std::uint64_t address);

// Whether hardware breakpoints arrive on this host: runs a guest of two instructions with one on the second.
// About 1 ms. Error kHost when it cannot be tried.
Expected<bool> breakpoints_work();

// Whether an interrupt that comes when a vCPU is right before a breakpoint leaves the breakpoint in force; by
// a guest of a few bytes that gets one. About 1 ms. Error kHost when it cannot be tried.
Expected<bool> interrupts_keep_breakpoints();

// Why traps should not be hardware breakpoints on this host; empty: nothing speaks against it.
std::string breakpoint_defect();

}  // namespace ktstr::kvm
