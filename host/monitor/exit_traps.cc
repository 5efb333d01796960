#include "host/monitor/exit_traps.h"

#include <array>
#include <span>
#include <string_view>
#include <utility>

namespace ktstr {
namespace {

constexpr std::array<std::string_view, 4> kClaims = {"scx_claim_exit", "scx_vexit", "scx_exit",
                                                     "scx_ops_exit_kind"};
constexpr std::array<std::string_view, 3> kBackstops = {"scx_disable_irq_workfn", "scx_error_irq_workfn",
                                                        "scx_ops_error_irq_workfn"};
constexpr std::array<std::string_view, 2> kDumped = {"scx_disable_workfn", "scx_ops_disable_workfn"};

constexpr std::array<std::string_view, 4> kTold = {"scx_vexit", "scx_exit", "__scx_exit",
                                                   "scx_bpf_error_bstr"};

std::optional<std::uint32_t> position(const KernelTypes& types, std::string_view function,
                                      std::string_view parameter) {
  const auto found = types.parameter(function, parameter);
  return found ? std::optional(*found) : std::nullopt;
}

std::optional<ExitTrap::Message> message_of(const KernelTypes& types, std::string_view function) {
  using Form = ExitTrap::Message::Form;
  const auto format = position(types, function, "fmt");
  if (!format) return std::nullopt;
  if (const auto list = position(types, function, "args"))
    return ExitTrap::Message{*format, Form::kVaList, *list, 0};
  const auto data = position(types, function, "data");
  const auto size = position(types, function, "data__sz");
  if (data && size) return ExitTrap::Message{*format, Form::kArray, *data, *size};
  return ExitTrap::Message{*format, Form::kVariadic, 0, 0};
}

// The first of `names` that the kernel has.
std::optional<ExitTrap> first_of(std::span<const std::string_view> names, ExitTrap::Role role,
                                 const SymbolTable& symbols, const KernelTypes& types) {
  for (const std::string_view name : names) {
    const auto address = symbols.find(name);
    if (!address) continue;
    ExitTrap trap{role, std::string(name), *address, {}, {}, {}, {}};
    if (role == ExitTrap::Role::kClaim) {
      trap.sched = position(types, name, "sch");
      trap.kind = position(types, name, "kind");
      trap.exit_code = position(types, name, "exit_code");
      trap.message = message_of(types, name);
      // BTF leaves out functions whose signature the compiler changed; then the source's order is our best
      // knowledge: (sch, kind, ...), and (kind, ...) before there was a struct scx_sched.
      const bool has_sched = types.find_struct("scx_sched").has_value();
      if (!trap.kind) {
        trap.kind = has_sched ? 1 : 0;
        if (has_sched) trap.sched = 0;
      }
    }
    return trap;
  }
  return std::nullopt;
}

}  // namespace

std::vector<ExitTrap> find_exit_traps(const SymbolTable& symbols, const KernelTypes& types) {
  std::vector<ExitTrap> traps;
  for (auto trap : {first_of(kClaims, ExitTrap::Role::kClaim, symbols, types),
                    first_of(kBackstops, ExitTrap::Role::kBackstop, symbols, types),
                    first_of(kDumped, ExitTrap::Role::kDumped, symbols, types)}) {
    if (trap) traps.push_back(std::move(*trap));
  }
  const bool told =
      traps.empty() || traps.front().role != ExitTrap::Role::kClaim || traps.front().message.has_value();
  for (const std::string_view name : kTold) {
    const auto address = symbols.find(name);
    const auto message = message_of(types, name);
    if (told || !address || !message) continue;
    traps.push_back({ExitTrap::Role::kTold, std::string(name), *address, {}, {}, {}, message});
  }
  return traps;
}

std::optional<std::uint64_t> argument(const VcpuRegisters& registers, std::uint32_t index) {
  const auto values = argument_registers(registers);
  return index < values.size() ? std::optional(values[index]) : std::nullopt;
}

ExpandedFormat expand_message(const ExitTrap::Message& message, const VcpuRegisters& registers,
                              KernelReader& memory, const GuestKernel* kernel) {
  using Form = ExitTrap::Message::Form;
  ReadBudget budget(std::uint64_t{64} << 10, 2000);
  const auto format = argument(registers, message.format);
  const auto values = argument(registers, message.values);
  const auto bytes = argument(registers, message.bytes);
  if (!format || !values || !bytes) return {{}, "its arguments are not in registers"};
  auto arguments = [&]() -> std::expected<GuestVarargs, std::string> {
    if (message.form == Form::kVaList) return GuestVarargs::of_va_list(memory, Kva(*values), budget);
    if (message.form == Form::kArray) return GuestVarargs::of_array(Kva(*values), *bytes & 0xffffffff);
    return GuestVarargs::at_entry(registers, message.format + 1);
  }();
  if (!arguments) return {{}, arguments.error()};
  return expand_format(memory, Kva(*format), std::move(*arguments), kernel, budget);
}

}  // namespace ktstr
