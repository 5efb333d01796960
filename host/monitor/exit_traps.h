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
//
// Where the claim is the end of the guest, its message has to be made from what the functions on the way are
// told: a format and arguments (guest_printf.h). scx_claim_exit() is told neither, so in its kernels the
// functions that lead to it are trapped too; which of them are passed depends on what was inlined.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/kernel/kernel_types.h"
#include "host/kernel/symbol_table.h"
#include "host/machine/machine.h"
#include "host/monitor/guest_printf.h"

namespace ktstr {

struct ExitTrap {
  enum class Role {
    kClaim,     // the exit is about to be claimed
    kBackstop,  // claimed; the message is there, the kernel's own dump is not
    kDumped,    // the kernel's own dump is there; the scheduler is about to be disabled
    kTold,      // on the way to a claim that is not told the message: this function is
  };
  // Where the message is among a function's arguments: positions.
  struct Message {
    enum class Form {
      kVariadic,  // fmt, ...
      kVaList,    // fmt, va_list
      kArray,     // fmt, u64 values[], bytes
    };
    std::uint32_t format = 0;
    Form form = Form::kVariadic;
    std::uint32_t values = 0;  // of the va_list or the array
    std::uint32_t bytes = 0;   // of the array's size
  };
  Role role = Role::kClaim;
  std::string symbol;
  std::uint64_t address = 0;  // link-time
  // Positions of the function's arguments; absent where it has none such.
  std::optional<std::uint32_t> sched, kind, exit_code;
  std::optional<Message> message;
};

// All there are in this kernel; empty when it has no sched_ext. kTold only where the claim has no message.
std::vector<ExitTrap> find_exit_traps(const SymbolTable& symbols, const KernelTypes& types);

// Argument `index` (0 to 5) of a function at whose entry a vCPU stands (System V ABI); nullopt beyond.
std::optional<std::uint64_t> argument(const VcpuRegisters& registers, std::uint32_t index);

// The message that such a function is about to make, expanded as the kernel will. `registers`: of the vCPU at
// its entry; `kernel`: for symbols, may be nullptr.
ExpandedFormat expand_message(const ExitTrap::Message& message, const VcpuRegisters& registers,
                              KernelReader& memory, const GuestKernel* kernel);

}  // namespace ktstr
