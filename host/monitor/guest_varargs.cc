#include "host/monitor/guest_varargs.h"

#include <fmt/format.h>

namespace ktstr {
namespace {

// The part of a va_list that is used without floating point. Its two offsets count bytes of the area that
// the registers were saved to.
struct VaList {
  std::uint32_t gp_offset;
  std::uint32_t fp_offset;
  std::uint64_t overflow_arg_area;
  std::uint64_t reg_save_area;
};
static_assert(sizeof(VaList) == 24);

constexpr std::uint32_t kSavedBytes = 8 * kArgumentRegisters;

}  // namespace

std::array<std::uint64_t, kArgumentRegisters> argument_registers(const VcpuRegisters& registers) {
  return {registers.rdi, registers.rsi, registers.rdx, registers.rcx, registers.r8, registers.r9};
}

GuestVarargs GuestVarargs::at_entry(const VcpuRegisters& registers, std::uint32_t named) {
  GuestVarargs arguments;
  arguments.registers_ = argument_registers(registers);
  arguments.next_register_ = named < kArgumentRegisters ? named : kArgumentRegisters;
  const std::uint64_t on_stack = named < kArgumentRegisters ? 0 : named - kArgumentRegisters;
  arguments.stack_ = Kva(registers.rsp) + 8 + 8 * on_stack;  // above the return address
  return arguments;
}

std::expected<GuestVarargs, std::string> GuestVarargs::of_va_list(KernelReader& memory, Kva list,
                                                                  ReadBudget& budget) {
  const auto read = memory.read<VaList>(list, budget);
  if (!read) return std::unexpected("the va_list cannot be read: " + read.error().to_string());
  if (read->gp_offset > kSavedBytes || read->gp_offset % 8 != 0) {
    return std::unexpected(fmt::format("{} is no va_list: its gp_offset is {}, not a multiple of 8 up to {}",
                                       list, read->gp_offset, kSavedBytes));
  }
  GuestVarargs arguments;
  arguments.stack_ = Kva(read->overflow_arg_area);
  arguments.next_register_ = read->gp_offset / 8;
  for (std::uint32_t i = arguments.next_register_; i < kArgumentRegisters; ++i) {
    const auto saved = memory.read<std::uint64_t>(Kva(read->reg_save_area) + 8 * std::uint64_t{i}, budget);
    if (!saved) return std::unexpected("saved registers cannot be read: " + saved.error().to_string());
    arguments.registers_[i] = *saved;
  }
  return arguments;
}

GuestVarargs GuestVarargs::of_array(Kva data, std::uint64_t bytes) {
  GuestVarargs arguments;
  arguments.stack_ = data;
  arguments.left_ = bytes / 8;
  return arguments;
}

std::expected<std::uint64_t, std::string> GuestVarargs::next(KernelReader& memory, ReadBudget& budget) {
  if (next_register_ < kArgumentRegisters) return registers_[next_register_++];
  if (left_ == 0) return std::unexpected("there are fewer arguments than the format asks for");
  const auto value = memory.read<std::uint64_t>(stack_, budget);
  if (!value) return std::unexpected("an argument cannot be read: " + value.error().to_string());
  stack_ += 8;
  --left_;
  return *value;
}

}  // namespace ktstr
