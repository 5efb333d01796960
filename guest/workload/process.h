// Making and watching child processes.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr::guest {

// A process that was just made.
struct Forked {
  pid_t pid = -1;  // 0 in the child
  UniqueFd pidfd;  // empty in the child
  bool in_cgroup = false;
};

// Forks; in the child the new process is already in the cgroup behind `cgroup_fd` when the kernel can do that
// (clone3(CLONE_INTO_CGROUP), Linux 5.7; it saves the 0.2 to 0.6 ms of an attach and the child never runs
// elsewhere). With `cgroup_fd` < 0, or where that is refused, in_cgroup is false and the caller attaches. The
// caller must be single-threaded. Errors: kHost.
Expected<Forked> fork_process(int cgroup_fd);

// How a process ended, as waitid(2) tells.
struct ExitStatus {
  bool signaled = false;
  int value = 0;  // exit code or signal
};
// "exited 1", "killed by signal 9"
std::string to_string(const ExitStatus& status);

// Reaps the child behind `pidfd` when it has ended; nothing while it still lives. Never blocks. A child that
// somebody else has reaped counts as "exited 0".
std::optional<ExitStatus> try_reap(int pidfd);

// SIGKILLs the process and the process group it leads.
void kill_process_group(pid_t pid, int pidfd);

// Makes sure that this process may hold `more` further descriptors (raises RLIMIT_NOFILE). Best effort.
void allow_descriptors(std::size_t more);

}  // namespace ktstr::guest
