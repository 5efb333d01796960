// The rest of what user space expects of a running system: a few files in /etc, the loopback interface,
// limits, kernel settings; and the kernel modules the host has packed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ktstr::guest {

// Sets all of it up; each failure adds one sentence to `warnings`.
void prepare_environment(std::vector<std::string>& warnings);

// The paths listed in the text of /etc/ktstr/modules: one absolute guest path a line, '#' comments, blank
// lines; at most 256. Anything else adds a warning.
std::vector<std::string> parse_module_list(std::string_view text, std::vector<std::string>& warnings);

// Loads the modules of /etc/ktstr/modules in that order with finit_module(2); one that is already there is
// fine. Returns the paths that were loaded.
std::vector<std::string> load_modules(std::vector<std::string>& warnings);

// Puts this process at SCHED_FIFO priority 1 with reset-on-fork, so that children start as SCHED_OTHER.
// Returns why not, or
// "". There is no mlockall: the root file system of the guest is memory and there is no swap, so nothing of
// PID 1 is ever paged out.
std::string become_fifo();

}  // namespace ktstr::guest
