#include "host/report/dump/enum_names.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

namespace ktstr {
namespace {

// Constants that say how something is laid out, not what is set. SCX_ENQ_LAST is a flag, __SCX_..._LAST an
// end mark.
bool is_layout(std::string_view name) {
  return name.ends_with("_SHIFT") || name.ends_with("_BITS") ||
         (name.starts_with("__") && name.ends_with("_LAST"));
}

}  // namespace

EnumNames::Table EnumNames::make_table(const ktstr::v1::EnumTable& from) {
  Table table;
  std::uint64_t highest = 0;
  std::vector<std::uint64_t> values;
  for (const auto& constant : from.constants()) {
    // 1 << 31 of an enum whose type is int.
    const bool sign_bit = constant.value() == 0xffffffff80000000;
    table.all.push_back({constant.name(), sign_bit ? 0x80000000 : constant.value()});
    if (is_layout(constant.name())) continue;
    values.push_back(table.all.back().value);
    highest = std::max(highest, table.all.back().value);
  }
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  // 0, 1, 2, 3 without a gap cannot be bits: 3 would be a name for two of them.
  table.plain = values.size() >= 3 && values.front() == 0 && highest == values.size() - 1 && highest != 2;
  if (table.plain) return table;

  for (const Constant& constant : table.all) {
    if (!constant.name.ends_with("_MASK") || std::has_single_bit(constant.value) || constant.value == 0)
      continue;
    Mask mask{
        .name = constant.name.substr(0, constant.name.size() - 5), .bits = constant.value, .inside = {}};
    bool numbers = false;
    for (const Constant& other : table.all) {
      if (other.value == 0 || other.value == mask.bits || (other.value & ~mask.bits) != 0) continue;
      if (is_layout(other.name)) continue;
      mask.inside.push_back(other);
      numbers = numbers || !std::has_single_bit(other.value);
    }
    // A mask over single bits only groups flags.
    if (numbers || mask.inside.empty()) table.masks.push_back(std::move(mask));
  }
  for (const Constant& constant : table.all) {
    if (!std::has_single_bit(constant.value) || is_layout(constant.name)) continue;
    const auto covers = [&](const Mask& mask) { return (mask.bits & constant.value) != 0; };
    if (std::none_of(table.masks.begin(), table.masks.end(), covers)) table.flags.push_back(constant);
  }
  std::stable_sort(table.flags.begin(), table.flags.end(),
                   [](const Constant& a, const Constant& b) { return a.value < b.value; });
  return table;
}

EnumNames::EnumNames(const ktstr::v1::Dump& dump) {
  for (const auto& table : dump.enums()) tables_[table.enum_names()] = make_table(table);
}

std::vector<std::string> EnumNames::names(std::string_view enum_names, std::uint64_t value) const {
  std::vector<std::string> found;
  const auto at = tables_.find(enum_names);
  if (at == tables_.end()) return found;
  const Table& table = at->second;
  if (table.plain) {
    for (const Constant& constant : table.all) {
      if (constant.value == value && !is_layout(constant.name)) return {constant.name};
    }
    return {fmt::format("{:#x}", value)};
  }
  std::uint64_t rest = value;
  for (const Constant& flag : table.flags) {
    if ((rest & flag.value) == 0) continue;
    found.push_back(flag.name);
    rest &= ~flag.value;
  }
  for (const Mask& mask : table.masks) {
    const std::uint64_t number = rest & mask.bits;
    if (number == 0) continue;
    const auto same = std::find_if(mask.inside.begin(), mask.inside.end(),
                                   [&](const Constant& constant) { return constant.value == number; });
    found.push_back(same != mask.inside.end()
                        ? same->name
                        : fmt::format("{}={:#x}", mask.name, number >> std::countr_zero(mask.bits)));
    rest &= ~mask.bits;
  }
  if (rest != 0) found.push_back(fmt::format("{:#x}", rest));
  return found;
}

std::uint64_t EnumNames::value(std::string_view enum_names, std::string_view constant,
                               std::uint64_t otherwise) const {
  const auto at = tables_.find(enum_names);
  if (at == tables_.end()) return otherwise;
  for (const Constant& candidate : at->second.all) {
    if (candidate.name == constant) return candidate.value;
  }
  return otherwise;
}

}  // namespace ktstr
