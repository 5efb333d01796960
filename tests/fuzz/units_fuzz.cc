// Durations, sizes and near words: any text, any value.
#include <string>

#include "common/units.h"
#include "tests/fuzz/fuzz_input.h"

using ktstr::fuzz::check;

namespace {

void check_duration_text(std::string_view text) {
  const auto duration = ktstr::parse_duration(text);
  if (!duration) return;
  check(duration->count() >= 0, "a duration is not negative");
  const auto again = ktstr::parse_duration(ktstr::format_duration(*duration));
  check(again.has_value() && *again == *duration, "a duration survives its text");
  check(ktstr::format_duration(*duration).size() <= text.size(), "no text is shorter");
}

void check_duration_value(std::int64_t count) {
  const auto again = ktstr::parse_duration(ktstr::format_duration(std::chrono::nanoseconds(count)));
  if (again) check(again->count() == count, "a formatted duration has its value");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ktstr::fuzz::FuzzInput input(data, size);
  const std::uint64_t number = input.number(8);
  const std::string_view text = input.rest();

  check_duration_text(text);
  check_duration_value(static_cast<std::int64_t>(number));
  check(ktstr::format_size(number).size() <= 10, "a size fits ten characters");
  const auto bytes = ktstr::parse_size(text);
  check(!bytes || *bytes <= std::uint64_t{1} << 60, "a size is at most 2^60");
  const std::string word(text.substr(0, text.size() / 2));
  const std::string match = ktstr::closest_match(word, {std::string(text.substr(text.size() / 2)), "spin"});
  check(match.empty() || !word.empty(), "nothing is near to no word");
  return 0;
}
