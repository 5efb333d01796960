#include "common/units.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/unit/common/prng.h"

namespace ktstr {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

// Nanoseconds, or -1 for a refusal.
std::int64_t duration(std::string_view text) {
  const auto value = parse_duration(text);
  if (!value) {
    EXPECT_EQ(value.error().code(), ErrorCode::kUsage) << text;
  }
  return value ? value->count() : -1;
}

constexpr std::uint64_t kRefused = UINT64_MAX;
std::uint64_t size(std::string_view text) {
  const auto value = parse_size(text);
  if (!value) {
    EXPECT_EQ(value.error().code(), ErrorCode::kUsage) << text;
  }
  return value.value_or(kRefused);
}

TEST(ParseDuration, KnowsItsUnits) {
  EXPECT_EQ(duration("1ns"), 1);
  EXPECT_EQ(duration("1us"), 1'000);
  EXPECT_EQ(duration("1ms"), 1'000'000);
  EXPECT_EQ(duration("1s"), 1'000'000'000);
  EXPECT_EQ(duration("1m"), 60'000'000'000);
  EXPECT_EQ(duration("1h"), 3'600'000'000'000);
  EXPECT_EQ(duration("0s"), 0);
  EXPECT_EQ(duration("0.0s"), 0);
}

TEST(ParseDuration, FractionsAreExact) {
  EXPECT_EQ(duration("1.5s"), 1'500'000'000);
  EXPECT_EQ(duration("0.1s"), 100'000'000);
  EXPECT_EQ(duration("0.000000001s"), 1);
  EXPECT_EQ(duration("1.100000000000000000000000000000s"), 1'100'000'000);
  EXPECT_EQ(duration("0.000000000005h"), 18);
  EXPECT_EQ(duration("0.25us"), 250);
}

TEST(ParseDuration, RefusesWhatIsFinerThanANanosecond) {
  EXPECT_EQ(duration("1.5ns"), -1);
  EXPECT_EQ(duration("0.0000000001s"), -1);
  EXPECT_EQ(duration("0.333333333333333333h"), -1);
}

TEST(ParseDuration, TenYearsAreTheMost) {
  EXPECT_EQ(duration("87660h"), 315'576'000'000'000'000);
  EXPECT_EQ(duration("87660.1h"), -1);
  EXPECT_EQ(duration("87661h"), -1);
  EXPECT_EQ(duration("18446744073709551616ns"), -1);
  EXPECT_EQ(duration("18446744073709551617s"), -1);
  EXPECT_EQ(duration(std::string(100000, '9') + "s"), -1);
  EXPECT_EQ(duration(std::string(100000, '0') + "1s"), 1'000'000'000);
}

TEST(ParseDuration, RefusesRubbish) {
  for (const std::string_view text : {"",    "s",    "1",   "1.5",  "1 s",   " 1s",    "1s ",  "-1s",
                                      "+1s", "1e3s", ".5s", "1.s",  "1..5s", "1.5.5s", "1sec", "1S",
                                      "1d",  "nan",  "inf", "NaNs", "0x1s",  "1s1ms",  "1s\n", "\xc2\xb5s"}) {
    EXPECT_EQ(duration(text), -1) << text;
  }
  EXPECT_EQ(duration(std::string_view("1s\0", 3)), -1);
}

TEST(ParseDuration, ErrorsSayWhatWouldBeRight) {
  EXPECT_EQ(parse_duration("5").error().to_string(),
            "bad duration '5': the unit is missing; use ns, us, ms, s, m (minutes) or h");
  EXPECT_EQ(parse_duration("5sec").error().to_string(),
            "bad duration '5sec': unknown unit 'sec'; use ns, us, ms, s, m (minutes) or h");
  EXPECT_EQ(parse_duration("-5s").error().to_string(), "bad duration '-5s': a duration cannot be negative");
}

TEST(FormatDuration, IsTheShortestText) {
  EXPECT_EQ(format_duration(0s), "0s");
  EXPECT_EQ(format_duration(1500ms), "1.5s");
  EXPECT_EQ(format_duration(250us), "250us");
  EXPECT_EQ(format_duration(1ns), "1ns");
  EXPECT_EQ(format_duration(60s), "1m");
  EXPECT_EQ(format_duration(90s), "90s");
  EXPECT_EQ(format_duration(3600s), "1h");
  EXPECT_EQ(format_duration(100ms), "0.1s");
  EXPECT_EQ(format_duration(360ms), "360ms");
  EXPECT_EQ(format_duration(1001ms), "1001ms");
  EXPECT_EQ(format_duration(1'000'000'001ns), "1000000001ns");
}

TEST(FormatDuration, ShowsWhatCannotBeParsedToo) {
  EXPECT_EQ(format_duration(-1500ms), "-1.5s");
  EXPECT_EQ(format_duration(nanoseconds::min()), "-9223372036854775808ns");
}

TEST(FormatDuration, ParseGivesTheSameValueBack) {
  test::Prng prng(2);
  for (int round = 0; round < 2000; ++round) {
    // All magnitudes, and round numbers of each unit.
    constexpr std::int64_t kUnits[] = {1, 1'000, 1'000'000, 1'000'000'000, 60'000'000'000, 3'600'000'000'000};
    const auto shift = prng.below(50);
    const auto raw = static_cast<std::int64_t>(prng.next() >> (14 + shift));
    const std::int64_t count = round % 2 == 0 ? raw : raw % 5000 * kUnits[prng.below(6)];
    const std::string text = format_duration(nanoseconds(count));
    ASSERT_EQ(duration(text), count) << text;
  }
}

TEST(ParseSize, UnitsArePowersOf1024) {
  EXPECT_EQ(size("0"), 0U);
  EXPECT_EQ(size("1024"), 1024U);
  EXPECT_EQ(size("37B"), 37U);
  EXPECT_EQ(size("1K"), 1024U);
  EXPECT_EQ(size("512M"), std::uint64_t{512} << 20);
  EXPECT_EQ(size("512MB"), std::uint64_t{512} << 20);
  EXPECT_EQ(size("512MiB"), std::uint64_t{512} << 20);
  EXPECT_EQ(size("512Mi"), std::uint64_t{512} << 20);
  EXPECT_EQ(size("2g"), std::uint64_t{2} << 30);
  EXPECT_EQ(size("1.5GiB"), std::uint64_t{3} << 29);
  EXPECT_EQ(size("1T"), std::uint64_t{1} << 40);
  EXPECT_EQ(size("0.5K"), 512U);
}

TEST(ParseSize, RefusesFractionsOfAByteAndTooMuch) {
  EXPECT_EQ(size("1.5"), kRefused);
  EXPECT_EQ(size("0.3K"), kRefused);
  EXPECT_EQ(size("1048576T"), std::uint64_t{1} << 60);
  EXPECT_EQ(size("1048576.5T"), kRefused);
  EXPECT_EQ(size("1152921504606846977"), kRefused);
  EXPECT_EQ(size("18446744073709551616"), kRefused);
  EXPECT_EQ(size("18446744073709551616T"), kRefused);
}

TEST(ParseSize, RefusesRubbish) {
  for (const std::string_view text : {"", "M", "-1", "+1", "1 M", " 1M", "1M ", "1iB", "1i", "1KK", "1KBi",
                                      "1P", "1b", "1e9", "0x10", ".5M", "1.M", "nan", "1M\n"}) {
    EXPECT_EQ(size(text), kRefused) << text;
  }
}

TEST(FormatSize, OneDecimalAtMost) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(37), "37 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1 KiB");
  EXPECT_EQ(format_size(std::uint64_t{512} << 20), "512 MiB");
  EXPECT_EQ(format_size(std::uint64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(format_size((1U << 20) - 1), "1 MiB");  // not "1024 KiB"
  EXPECT_EQ(format_size(UINT64_MAX), "16 EiB");
}

TEST(ClosestMatch, FindsTypingMistakes) {
  const std::vector<std::string> words = {"spin", "yield", "sleep_and_run", "futex"};
  EXPECT_EQ(closest_match("spn", words), "spin");
  EXPECT_EQ(closest_match("spinn", words), "spin");
  EXPECT_EQ(closest_match("yeild", words), "yield");  // neighbours swapped
  EXPECT_EQ(closest_match("sleep_run", words), "");   // four letters are no mistyping of nine
  EXPECT_EQ(closest_match("slep_an_run", words), "sleep_and_run");
  EXPECT_EQ(closest_match("spin", words), "spin");
}

TEST(ClosestMatch, IsSilentWhenNothingIsNear) {
  const std::vector<std::string> words = {"a", "spin"};
  EXPECT_EQ(closest_match("", words), "");
  EXPECT_EQ(closest_match("b", words), "");
  EXPECT_EQ(closest_match("banana", words), "");
  EXPECT_EQ(closest_match("spin", {}), "");
  EXPECT_EQ(closest_match(std::string(100000, 's'), words), "");
  EXPECT_EQ(closest_match("spin", {std::string(100000, 's'), ""}), "");
}

TEST(ClosestMatch, PrefersTheNearestThenTheFirst) {
  EXPECT_EQ(closest_match("abcdef", {"abcdxy", "abcdex"}), "abcdex");
  EXPECT_EQ(closest_match("abcdef", {"abcdex", "abcdey"}), "abcdex");
}

}  // namespace
}  // namespace ktstr
