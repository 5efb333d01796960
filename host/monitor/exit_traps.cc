#include "host/monitor/exit_traps.h"

#include <array>
#include <span>
#include <string_view>

namespace ktstr {
namespace {

constexpr std::array<std::string_view, 4> kClaims = {"scx_claim_exit", "scx_vexit", "scx_exit",
                                                     "scx_ops_exit_kind"};
constexpr std::array<std::string_view, 3> kBackstops = {"scx_disable_irq_workfn", "scx_error_irq_workfn",
                                                        "scx_ops_error_irq_workfn"};
constexpr std::array<std::string_view, 2> kDumped = {"scx_disable_workfn", "scx_ops_disable_workfn"};

std::optional<std::uint32_t> position(const KernelTypes& types, std::string_view function,
                                      std::string_view parameter) {
  const auto found = types.parameter(function, parameter);
  return found ? std::optional(*found) : std::nullopt;
}

// The first of `names` that the kernel has.
std::optional<ExitTrap> first_of(std::span<const std::string_view> names, ExitTrap::Role role,
                                 const SymbolTable& symbols, const KernelTypes& types) {
  for (const std::string_view name : names) {
    const auto address = symbols.find(name);
    if (!address) continue;
    ExitTrap trap{role, std::string(name), *address, {}, {}, {}};
    if (role == ExitTrap::Role::kClaim) {
      trap.sched = position(types, name, "sch");
      trap.kind = position(types, name, "kind");
      trap.exit_code = position(types, name, "exit_code");
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
  return traps;
}

std::optional<std::uint64_t> argument(const VcpuRegisters& registers, std::uint32_t index) {
  const std::array<std::uint64_t, 6> values = {registers.rdi, registers.rsi, registers.rdx,
                                               registers.rcx, registers.r8,  registers.r9};
  return index < values.size() ? std::optional(values[index]) : std::nullopt;
}

}  // namespace ktstr
