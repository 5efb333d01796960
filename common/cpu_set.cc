#include "common/cpu_set.h"

#include <algorithm>
#include <bitset>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {
namespace {

// The longest list that makes sense, every second one of 8192 CPUs, has 20 KB. The bound also limits the
// work: at most 2^16 / 7 elements of 8192 CPUs each.
constexpr std::size_t kMaxText = std::size_t{1} << 16;

constexpr std::string_view kBlanks = " \t\r\n";

using Bits = std::bitset<CpuSet::kMaxCpus>;

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

// Takes a decimal number off the front of `text`. A number too large for 32 bits gives the largest one, which
// every limit refuses. Nothing when there is no digit.
std::optional<std::uint32_t> take_number(std::string_view& text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) value = UINT32_MAX;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take_char(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

// One element: CPUs first to last; of every `group` of them the first `used`.
struct Element {
  std::uint32_t first = 0;
  std::uint32_t last = 0;
  std::uint32_t used = 1;
  std::uint32_t group = 1;
};

// The grammar alone; nothing when `text` does not follow it.
std::optional<Element> split_element(std::string_view text, std::uint32_t limit) {
  Element element;
  if (text.starts_with("all")) {
    text.remove_prefix(3);
    element.last = limit - 1;
  } else {
    const auto first = take_number(text);
    if (!first) return std::nullopt;
    element.first = element.last = *first;
    if (text.empty()) return element;
    if (!take_char(text, '-')) return std::nullopt;
    const auto last = take_number(text);
    if (!last) return std::nullopt;
    element.last = *last;
  }
  if (text.empty()) return element;
  if (!take_char(text, ':')) return std::nullopt;
  const auto used = take_number(text);
  if (!used || !take_char(text, '/')) return std::nullopt;
  const auto group = take_number(text);
  if (!group || !text.empty()) return std::nullopt;
  element.used = *used;
  element.group = *group;
  return element;
}

Expected<Element> parse_element(std::string_view text, std::uint32_t limit) {
  const auto bad = [&](std::string why) {
    return fail(ErrorCode::kUsage, "bad CPU list element " + quote(text) + ": " + std::move(why));
  };
  if (text.empty()) return bad(R"(it is empty; write for example "0-3,8")");
  const auto element = split_element(text, limit);
  if (!element) return bad("expected a number, a range such as 0-3, or 0-7:2/4");
  if (element->first > element->last) return bad("the range is reversed");
  if (element->last >= limit) {
    return bad(limit == 1 ? std::string("only CPU 0 exists")
                          : fmt::format("CPU numbers go from 0 to {}", limit - 1));
  }
  if (element->group == 0) return bad("the group size is 0");
  if (element->used > element->group) return bad("more CPUs are used than the group has");
  return *element;
}

void set_element(const Element& element, Bits& bits) {
  for (std::uint32_t start = element.first; start <= element.last;) {
    const std::uint32_t left = element.last - start + 1;
    const std::uint32_t used = std::min(element.used, left);
    for (std::uint32_t cpu = start; cpu < start + used; ++cpu) bits.set(cpu);
    if (element.group >= left) break;
    start += element.group;
  }
}

}  // namespace

CpuSet CpuSet::first(std::uint32_t count) {
  std::set<std::uint32_t> cpus;
  for (std::uint32_t cpu = 0; cpu < std::min(count, kMaxCpus); ++cpu) cpus.insert(cpus.end(), cpu);
  return CpuSet(std::move(cpus));
}

Expected<CpuSet> CpuSet::parse(std::string_view text, std::uint32_t limit) {
  if (text.size() > kMaxText) {
    return fail(ErrorCode::kUsage, fmt::format("CPU list {} has {} bytes; at most {} make sense", quote(text),
                                               text.size(), kMaxText));
  }
  std::string_view rest = trim(text);
  if (rest.empty()) return CpuSet();
  limit = std::min(limit, kMaxCpus);
  if (limit == 0)
    return fail(ErrorCode::kUsage, "CPU list " + quote(rest) + " must be empty: there are no CPUs");

  Bits bits;
  for (bool more = true; more;) {
    const std::size_t comma = rest.find(',');
    const auto element = parse_element(trim(rest.substr(0, comma)), limit);
    if (!element) return std::unexpected(element.error());
    set_element(*element, bits);
    more = comma != std::string_view::npos;
    if (more) rest.remove_prefix(comma + 1);
  }

  CpuSet set;
  for (std::uint32_t cpu = 0; cpu < limit; ++cpu) {
    if (bits.test(cpu)) set.cpus_.insert(set.cpus_.end(), cpu);
  }
  return set;
}

bool CpuSet::is_subset_of(const CpuSet& other) const {
  return std::ranges::includes(other.cpus_, cpus_);
}

std::string CpuSet::to_string() const {
  std::string text;
  for (auto it = cpus_.begin(); it != cpus_.end();) {
    const std::uint32_t begin = *it;
    std::uint32_t end = begin;
    while (++it != cpus_.end() && *it == end + 1) end = *it;
    if (!text.empty()) text += ',';
    text += begin == end ? fmt::format("{}", begin) : fmt::format("{}-{}", begin, end);
  }
  return text;
}

}  // namespace ktstr
