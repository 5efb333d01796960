// Why a scheduler left: from its own words, the kernel's, and the way its process ended.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ktstr::guest {

// "exited with status 1", "was killed by signal 9 (Killed)"; `wait_status` as waitpid(2) gives it.
std::string describe_wait_status(int wait_status);
// Exit code, or 128 + signal.
int exit_code_of(int wait_status);

// What is known about an unexpected end.
struct ExitEvidence {
  // Absent while the process still runs.
  std::optional<int> wait_status;
  // Last lines of the scheduler's output.
  std::vector<std::string> output;
  // Kernel messages that start with "sched_ext: ", without that, since the scheduler's start.
  std::vector<std::string> kernel;
};

// The one sentence that says most. In this order: the scheduler's line with "EXIT:" (what the scx user space
// prints from the kernel's exit record), the kernel's message about an error, the signal or exit status, the
// kernel's message about an orderly end; with what stands beside it where that adds something.
std::string exit_message(const ExitEvidence& evidence);

// The kernel's message when it disabled the scheduler because of an error (or SysRq-S); "" when it did not,
// or the end was asked for.
std::string kernel_error(const std::vector<std::string>& kernel);

// Why a start failed before the scheduler was attached: the end of the process and the line that most likely
// names the cause (the last one with "error", "fail" or the like, else the last one).
std::string start_failure_message(int wait_status, const std::vector<std::string>& output);

// The part behind "sched_ext: " of a /dev/kmsg record ("<prio>,<seq>,<usec>,<flags>;<text>\n ..."), nothing
// for any other.
std::optional<std::string> sched_ext_message(std::string_view record);

}  // namespace ktstr::guest
