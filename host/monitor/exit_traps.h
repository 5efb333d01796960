// Where a sched_ext scheduler's exit can be caught, by kernel.
//
// A scheduler that fails is taken down in four steps: some function claims the exit (the first error wins),
// an irq_work writes the kernel's own dump, a kthread disables the scheduler, and that bypasses and drains
// every queue. The state worth having is that at the first step. Kernels claim in different places, and what
// was inlined differs too, so the function is chosen by which symbols there are, from the innermost outwards:
//
//     scx_claim_exit      where it is a function of its own: sees everything (7.1, 7.3)
//     scx_vexit           6.16, 6.17, 6.19, 7.0, 7.2
//     scx_exit            6.18, which has the former inlined
//     scx_ops_exit_kind   before 6.16
//
// The irq_work function is trapped as well: if nothing was caught before, it is the last place where queues
// are still full; if something was, the exit message is complete there. scx_bypass() would be a bad choice:
// it also runs whenever a scheduler is attached.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/kernel/kernel_types.h"
#include "host/kernel/symbol_table.h"
#include "host/machine/machine.h"

namespace ktstr {

struct ExitTrap {
  enum class Role {
    kClaim,     // the exit is about to be claimed
    kBackstop,  // claimed; the message is there, the kernel's own dump is not
    kDumped,    // the kernel's own dump is there; the scheduler is about to be disabled
  };
  Role role = Role::kClaim;
  std::string symbol;
  std::uint64_t address = 0;  // link-time
  // Positions of the function's arguments; absent where it has none such.
  std::optional<std::uint32_t> sched, kind, exit_code;
};

// All there are in this kernel; empty when it has no sched_ext.
std::vector<ExitTrap> find_exit_traps(const SymbolTable& symbols, const KernelTypes& types);

// Argument `index` (0 to 5) of a function at whose entry a vCPU stands (System V ABI); nullopt beyond.
std::optional<std::uint64_t> argument(const VcpuRegisters& registers, std::uint32_t index);

}  // namespace ktstr
