// The summary at the end of a run: what a person reads in ten seconds.
#pragma once

#include <string>

#include "proto/result.pb.h"

namespace ktstr {

// Several lines, each ended by a newline: the verdict and what it is about, the reasons, one line a step,
// where the time went, where the files are. `color` uses ANSI colours for the verdict.
std::string summary(const ktstr::v1::RunResult& result, const std::string& result_path, bool color);

// "1.50 s", "12.3 ms", "45 us", "7 ns": three significant digits.
std::string short_time(std::uint64_t ns);

}  // namespace ktstr
