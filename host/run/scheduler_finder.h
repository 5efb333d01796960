// Finds the binary of a scheduler that was given by name.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

// A path (anything with a slash) is taken as it is. A bare name is searched in
//   1. KTSTR_SCHEDULER_PATH, a list of folders separated by ':'
//   2. <cache>/schedulers/<series>, the kernel's own series first (schedulers belong to the kernel source
//   they come
//      from), then the others from new to old
//   3. PATH
// Errors: kUsage when there is no such file, with the folders that were searched; kStartFailed when it is a
// folder or not executable.
Expected<std::string> find_scheduler(const std::string& path_or_name, std::string_view kernel_release);

// "7.2.13+deb14-cloud-amd64" -> "7.2"; "" when it does not begin with two numbers.
std::string kernel_series(std::string_view release);

// Splits a command line into arguments: blanks separate; '...' and "..." quote; a backslash escapes the next
// character outside single quotes. Nothing is expanded. Error kUsage for an unclosed quote or a trailing
// backslash.
Expected<std::vector<std::string>> split_arguments(std::string_view text);

}  // namespace ktstr
