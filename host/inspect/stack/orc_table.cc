#include "host/inspect/stack/orc_table.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "host/kernel/bytes.h"

namespace ktstr {

namespace {

constexpr std::size_t kIpBytes = 4;
constexpr std::size_t kRuleBytes = 6;
// Rules that are looked at to find out the numbering, spread over the table.
constexpr std::size_t kSamples = 4096;

using Register = OrcRule::Register;
using Type = OrcRule::Type;

// arch/x86/include/asm/orc_types.h of 7.2 and of 6.12, ORC_REG_*.
constexpr std::array<Register, 11> kRegisters = {
    Register::kUndefined, Register::kAx,         Register::kDx,        Register::kSp,
    Register::kBp,        Register::kDi,         Register::kR10,       Register::kR13,
    Register::kPrevSp,    Register::kSpIndirect, Register::kBpIndirect};
constexpr std::array<Register, 10> kOldRegisters = {
    Register::kUndefined, Register::kPrevSp, Register::kDx,  Register::kDi,         Register::kBp,
    Register::kSp,        Register::kR10,    Register::kR13, Register::kBpIndirect, Register::kSpIndirect};
constexpr std::array<Type, 5> kTypes = {Type::kUndefined, Type::kEndOfStack, Type::kCall, Type::kRegs,
                                        Type::kRegsPartial};
constexpr std::uint32_t kSpNumber = 3;
constexpr std::uint32_t kOldSpNumber = 5;

template <typename T, std::size_t kCount>
T at(const std::array<T, kCount>& table, std::uint32_t number) {
  return number < kCount ? table[number] : T::kUnknown;
}

}  // namespace

Expected<OrcTable> OrcTable::parse(const ElfView& elf, std::string_view what) {
  const ElfSection* ips = elf.section(".orc_unwind_ip");
  const ElfSection* rules = elf.section(".orc_unwind");
  if (ips == nullptr || rules == nullptr) {
    return fail(
        ErrorCode::kKernelLacks,
        fmt::format("{}: no sections .orc_unwind_ip and .orc_unwind: built without CONFIG_UNWINDER_ORC",
                    what));
  }
  OrcTable table;
  table.ips_ = ips->bytes;
  table.rules_ = rules->bytes;
  table.ips_address_ = ips->address;
  table.count_ = table.ips_.size() / kIpBytes;
  if (table.count_ == 0 || table.count_ > kMaxRules || table.ips_.size() % kIpBytes != 0 ||
      table.rules_.size() != table.count_ * kRuleBytes) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}: .orc_unwind_ip has {} bytes and .orc_unwind {}: they should hold as many "
                            "words of 4 as rules of 6 bytes, at most {}",
                            what, table.ips_.size(), table.rules_.size(), kMaxRules));
  }
  for (std::size_t n = 1; n < table.count_; ++n) {
    if (table.begin_of(n) < table.begin_of(n - 1)) {
      return fail(ErrorCode::kUsage,
                  fmt::format("{}: .orc_unwind_ip is not sorted: rule {} begins at {:#x}, the one "
                              "before at {:#x}",
                              what, n, table.begin_of(n), table.begin_of(n - 1)));
    }
  }
  table.first_ = table.begin_of(0);
  table.last_ = table.begin_of(table.count_ - 1);
  table.choose_numbering();
  return table;
}

std::uint64_t OrcTable::begin_of(std::size_t index) const {
  const auto distance = load<std::int32_t>(ips_, index * kIpBytes).value_or(0);
  return ips_address_ + index * kIpBytes + static_cast<std::uint64_t>(std::int64_t{distance});
}

void OrcTable::choose_numbering() {
  std::size_t with_new = 0;
  std::size_t with_old = 0;
  const std::size_t step = std::max<std::size_t>(count_ / kSamples, 1);
  for (std::size_t n = 0; n < count_; n += step) {
    const auto word = load<std::uint16_t>(rules_, n * kRuleBytes + 4).value_or(0);
    if ((word & 0xf) == kSpNumber) ++with_new;
    if ((word & 0xf) == kOldSpNumber) ++with_old;
  }
  old_numbering_ = with_old > with_new;
}

std::optional<OrcRule> OrcTable::find(std::uint64_t link_address) const {
  if (!covers(link_address)) return std::nullopt;
  // The last rule that begins at or before the address: of several at one place only the last is real, those
  // before it end a section.
  std::size_t low = 0;
  std::size_t high = count_;
  while (high - low > 1) {
    const std::size_t middle = low + (high - low) / 2;
    (begin_of(middle) <= link_address ? low : high) = middle;
  }
  const std::size_t at_rule = low * kRuleBytes;
  const auto sp_offset = load<std::int16_t>(rules_, at_rule);
  const auto bp_offset = load<std::int16_t>(rules_, at_rule + 2);
  const auto word = load<std::uint16_t>(rules_, at_rule + 4);
  if (!sp_offset || !bp_offset || !word) return std::nullopt;
  const auto reg = [this](std::uint32_t number) {
    return old_numbering_ ? at(kOldRegisters, number) : at(kRegisters, number);
  };
  return OrcRule{.sp_offset = *sp_offset,
                 .bp_offset = *bp_offset,
                 .sp_register = reg(*word & 0xfu),
                 .bp_register = reg(*word >> 4 & 0xfu),
                 .type = at(kTypes, *word >> 8 & 7u),
                 .signal = (*word >> 11 & 1) != 0};
}

}  // namespace ktstr
