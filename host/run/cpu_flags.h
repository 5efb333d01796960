// --cpu-flags: features that the emulated CPU is to have besides its model's, or not to have.
#pragma once

#include <string>
#include <vector>

#include "common/error.h"

namespace ktstr {

// The one that changes how a kernel is booted: 5-level paging.
inline constexpr const char* kFiveLevels = "+la57";

// "+la57,-avx2" -> its parts; empty for "". Error kUsage for what is no list of signed names (lower-case
// letters, digits, '-', '.'; at most 64 of them). Whether the CPU can have a feature only the emulator
// knows.
Expected<std::vector<std::string>> parse_cpu_flags(const std::string& text);

}  // namespace ktstr
