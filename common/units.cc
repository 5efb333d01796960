#include "common/units.h"

#include <algorithm>
#include <array>
#include <optional>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {
namespace {

struct Unit {
  std::string_view name;
  std::uint64_t factor;  // nanoseconds or bytes
};

constexpr std::array<Unit, 6> kDurationUnits = {{{"h", 3'600'000'000'000},
                                                 {"m", 60'000'000'000},
                                                 {"s", 1'000'000'000},
                                                 {"ms", 1'000'000},
                                                 {"us", 1'000},
                                                 {"ns", 1}}};
// Ten years of 365.25 days.
constexpr std::uint64_t kMaxDuration = std::uint64_t{87'660} * 3'600'000'000'000;
constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 60;
constexpr std::array<Unit, 7> kSizeUnits = {{{"EiB", std::uint64_t{1} << 60},
                                             {"PiB", std::uint64_t{1} << 50},
                                             {"TiB", std::uint64_t{1} << 40},
                                             {"GiB", std::uint64_t{1} << 30},
                                             {"MiB", std::uint64_t{1} << 20},
                                             {"KiB", std::uint64_t{1} << 10},
                                             {"B", 1}}};

// A decimal number as written: digits without leading zeros, fraction without trailing ones.
struct Decimal {
  std::string_view whole;
  std::string_view fraction;
  std::string_view suffix;  // what follows the number
};

std::string_view take_digits(std::string_view& text) {
  const std::string_view digits = text.substr(0, text.find_first_not_of("0123456789"));
  text.remove_prefix(digits.size());
  return digits;
}

// Nothing unless `text` begins with "<digits>" or "<digits>.<digits>".
std::optional<Decimal> split_decimal(std::string_view text) {
  Decimal decimal;
  decimal.whole = take_digits(text);
  if (decimal.whole.empty()) return std::nullopt;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    decimal.fraction = take_digits(text);
    if (decimal.fraction.empty()) return std::nullopt;
  }
  decimal.whole.remove_prefix(std::min(decimal.whole.find_first_not_of('0'), decimal.whole.size()));
  decimal.fraction = decimal.fraction.substr(0, decimal.fraction.find_last_not_of('0') + 1);
  decimal.suffix = text;
  return decimal;
}

enum class Scaling { kOk, kTooLarge, kNotWhole };

// result = decimal * factor, exactly. `factor` must be below 2^60, so that ten times it fits.
Scaling scale(const Decimal& decimal, std::uint64_t factor, std::uint64_t limit, std::uint64_t& result) {
  std::uint64_t whole = 0;
  for (const char digit : decimal.whole) {
    whole = whole * 10 + static_cast<std::uint64_t>(digit - '0');
    if (whole > limit / factor) return Scaling::kTooLarge;
  }
  // 0.d1d2...dn * factor = (d1 * factor + 0.d2...dn * factor) / 10. If the whole is an integer, then ten
  // times it is, hence the second summand too: going from the last digit to the first, every step of an exact
  // result divides evenly.
  std::uint64_t part = 0;
  for (std::size_t i = decimal.fraction.size(); i-- > 0;) {
    part += static_cast<std::uint64_t>(decimal.fraction[i] - '0') * factor;
    if (part % 10 != 0) return Scaling::kNotWhole;
    part /= 10;
  }
  result = whole * factor + part;
  return result <= limit ? Scaling::kOk : Scaling::kTooLarge;
}

// `value` in units of `factor` as a decimal number, or nothing when it has no finite one.
std::optional<std::string> exact_decimal(std::uint64_t value, std::uint64_t factor) {
  // Enough for one nanosecond in hours, if it had an end; no longer text can win in format_duration anyway.
  constexpr int kMaxDigits = 16;
  std::string text = fmt::format("{}", value / factor);
  std::uint64_t rest = value % factor;
  if (rest != 0) text += '.';
  for (int digits = 0; rest != 0; ++digits) {
    if (digits == kMaxDigits) return std::nullopt;
    rest *= 10;
    text += static_cast<char>('0' + rest / factor);
    rest %= factor;
  }
  return text;
}

// The factor of a size suffix "[K|M|G|T][i][B]", or nothing.
std::optional<std::uint64_t> size_factor(std::string_view suffix) {
  constexpr std::string_view kPrefixes = "KMGT";
  std::uint64_t factor = 1;
  if (!suffix.empty()) {
    const char upper =
        suffix[0] >= 'a' && suffix[0] <= 'z' ? static_cast<char>(suffix[0] - 'a' + 'A') : suffix[0];
    const std::size_t power = kPrefixes.find(upper);
    if (power != std::string_view::npos) {
      factor <<= 10 * (power + 1);
      suffix.remove_prefix(1);
      if (suffix.starts_with('i')) suffix.remove_prefix(1);
    }
  }
  if (suffix.starts_with('B')) suffix.remove_prefix(1);
  if (!suffix.empty()) return std::nullopt;
  return factor;
}

// Edit distance where a swap of two neighbours, the most common typing mistake, is one edit like an
// insertion, a deletion or a replacement ("optimal string alignment").
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> above(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({replace, above[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(above);
    above.swap(row);
  }
  return above[b.size()];
}

}  // namespace

Expected<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return fail(ErrorCode::kUsage, fmt::format("bad duration {}: {}", quote(text), why));
  };
  if (text.starts_with('-')) return bad("a duration cannot be negative");
  const auto decimal = split_decimal(text);
  if (!decimal) return bad(R"(expected a number and a unit, for example "1.5s" or "250ms")");
  if (decimal->suffix.empty()) return bad("the unit is missing; use ns, us, ms, s, m (minutes) or h");
  const auto* const unit = std::ranges::find(kDurationUnits, decimal->suffix, &Unit::name);
  if (unit == kDurationUnits.end()) {
    return bad(fmt::format("unknown unit {}; use ns, us, ms, s, m (minutes) or h", quote(decimal->suffix)));
  }
  std::uint64_t nanoseconds = 0;
  switch (scale(*decimal, unit->factor, kMaxDuration, nanoseconds)) {
    case Scaling::kTooLarge:
      return bad("more than 10 years");
    case Scaling::kNotWhole:
      return bad("finer than a nanosecond");
    case Scaling::kOk:
      break;
  }
  return std::chrono::nanoseconds(static_cast<std::chrono::nanoseconds::rep>(nanoseconds));
}

std::string format_duration(std::chrono::nanoseconds duration) {
  if (duration.count() == 0) return "0s";
  const auto count = static_cast<std::uint64_t>(duration.count());
  const std::uint64_t magnitude = duration.count() < 0 ? 0 - count : count;
  std::string best;
  for (const Unit& unit : kDurationUnits) {
    auto text = exact_decimal(magnitude, unit.factor);
    if (!text) continue;
    // Of two equally short texts the one in the smaller unit has no decimal point, or a later one: easier to
    // read.
    if (best.empty() || text->size() + unit.name.size() <= best.size()) best = *text + std::string(unit.name);
  }
  return duration.count() < 0 ? "-" + best : best;
}

Expected<std::uint64_t> parse_size(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return fail(ErrorCode::kUsage, fmt::format("bad size {}: {}", quote(text), why));
  };
  const auto decimal = split_decimal(text);
  if (!decimal) return bad(R"(expected a number and perhaps a unit, for example "512M" or "1.5GiB")");
  const auto factor = size_factor(decimal->suffix);
  if (!factor) return bad(fmt::format("unknown unit {}; use K, M, G, T or none", quote(decimal->suffix)));
  std::uint64_t bytes = 0;
  switch (scale(*decimal, *factor, kMaxSize, bytes)) {
    case Scaling::kTooLarge:
      return bad("more than 2^60 bytes");
    case Scaling::kNotWhole:
      return bad("not a whole number of bytes");
    case Scaling::kOk:
      break;
  }
  return bytes;
}

std::string format_size(std::uint64_t bytes) {
  std::size_t index = 0;
  while (bytes < kSizeUnits[index].factor && index + 1 < kSizeUnits.size()) ++index;
  const auto tenths_of = [bytes](std::uint64_t factor) {
    return bytes / factor * 10 + (bytes % factor * 10 + factor / 2) / factor;
  };
  std::uint64_t tenths = tenths_of(kSizeUnits[index].factor);
  // Rounding may fill the unit up: 1 MiB, not 1024 KiB.
  if (tenths >= 10240 && index > 0) tenths = tenths_of(kSizeUnits[--index].factor);
  const std::string_view unit = kSizeUnits[index].name;
  if (tenths % 10 == 0) return fmt::format("{} {}", tenths / 10, unit);
  return fmt::format("{}.{} {}", tenths / 10, tenths % 10, unit);
}

std::string closest_match(std::string_view word, const std::vector<std::string>& candidates) {
  // Nobody mistypes a longer word; the distance costs the product of the lengths.
  constexpr std::size_t kMaxWord = 64;
  if (word.empty() || word.size() > kMaxWord) return "";
  std::size_t allowed = std::max<std::size_t>(1, word.size() / 3);
  std::string best;
  for (const std::string& candidate : candidates) {
    const std::size_t longer = std::max(candidate.size(), word.size());
    const std::size_t shorter = std::min(candidate.size(), word.size());
    if (shorter == 0 || longer - shorter > allowed) continue;
    const std::size_t distance = edit_distance(word, candidate);
    // Something must be left in common: "a" is no mistyped "b".
    if (distance > allowed || distance >= shorter) continue;
    if (distance == 0) return candidate;
    best = candidate;
    allowed = distance - 1;
  }
  return best;
}

}  // namespace ktstr
