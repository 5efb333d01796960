// GuestVarargs: the arguments behind the "..." of a function of the guest's, in the guest's memory.
//
// They come in three forms (System V ABI for x86-64, section 3.5.7; integers and pointers only, since the
// kernel is built without floating point):
//
//   - at the entry of f(a, b, ...): what the named arguments have left of the six argument registers, then
//     the stack above the return address, eight bytes each;
//   - in a va_list, which a function passes on to vf(a, b, args): 24 bytes that say how many of the saved
//     registers have been used, where these were saved, and where the rest is on the stack;
//   - in an array of 64-bit numbers, as BPF programs hand theirs to scx_bpf_error_bstr().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>

#include "host/machine/machine.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// A number of an argument register, 0 to 5 (rdi, rsi, rdx, rcx, r8, r9).
inline constexpr std::uint32_t kArgumentRegisters = 6;
std::array<std::uint64_t, kArgumentRegisters> argument_registers(const VcpuRegisters& registers);

class GuestVarargs {
 public:
  // A vCPU stands at the first instruction of a function with `named` arguments before the "...".
  static GuestVarargs at_entry(const VcpuRegisters& registers, std::uint32_t named);
  // The error is one sentence: the list cannot be read, or is none.
  static std::expected<GuestVarargs, std::string> of_va_list(KernelReader& memory, Kva list,
                                                             ReadBudget& budget);
  // `bytes` of them, from `data` on.
  static GuestVarargs of_array(Kva data, std::uint64_t bytes);

  // The next one. The error is one sentence.
  std::expected<std::uint64_t, std::string> next(KernelReader& memory, ReadBudget& budget);

 private:
  GuestVarargs() = default;

  std::array<std::uint64_t, kArgumentRegisters> registers_{};
  std::uint32_t next_register_ = kArgumentRegisters;
  Kva stack_;                        // of the next one that is in memory
  std::uint64_t left_ = UINT64_MAX;  // how many there are there
};

}  // namespace ktstr
