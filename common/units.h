// Text with units: durations ("1.5s") and sizes ("512M"), as users write them in scenario files and on the
// command line.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

// Parses "<decimal><unit>" with unit ns, us, ms, s, m (minutes) or h; no sign, no blanks inside. Error kUsage
// for a missing or unknown unit, not-a-number, negative, or more than 10 years. "0s" is accepted.
Expected<std::chrono::nanoseconds> parse_duration(std::string_view text);
// "1.5s", "250us", "0s": the shortest text that parse_duration turns back into the same value.
std::string format_duration(std::chrono::nanoseconds duration);

// Parses "<decimal>[K|M|G|T][i][B]": powers of 1024; a bare number is bytes. Error kUsage for rubbish,
// fractions of a byte, or more than 2^60.
Expected<std::uint64_t> parse_size(std::string_view text);
// "512 MiB", "1.5 GiB", "37 B".
std::string format_size(std::uint64_t bytes);

// The candidate nearest to `word` by edit distance when it is near enough to be a plausible typing mistake
// (at most a third of the word's length, at least 1), else "".
std::string closest_match(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace ktstr
