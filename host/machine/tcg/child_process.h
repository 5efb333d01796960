// ChildProcess: one program started with exactly the descriptors it was given, which never outlives us.
//
// PR_SET_PDEATHSIG ends the child when its parent dies, SIGKILL included. Two facts about it (prctl(2)): the
// "parent" is the thread that forked, so the thread that calls spawn must live as long as the child is
// wanted; and a parent that died before the prctl sends nothing, so the child looks at getppid() afterwards.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

// A descriptor of ours and the number it gets in the child (3 or more).
struct InheritedFd {
  int source = -1;
  int target = -1;
};

class ChildProcess {
 public:
  // Starts argv[0] (a path) in a session of its own, so that a Ctrl-C on our terminal does not reach it, with
  // standard input from /dev/null, standard output and error in one pipe, and otherwise only `fds`. Error
  // kHost when the process cannot be made or the program cannot be executed.
  // Without `huge_pages` its memory is never backed by huge pages that nobody asked for (PR_SET_THP_DISABLE):
  // slower by a little, but it has no more than what it touched.
  static Expected<ChildProcess> spawn(const std::vector<std::string>& argv, std::span<const InheritedFd> fds,
                                      bool huge_pages = true);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  // Kills and reaps.
  ~ChildProcess() { kill(); }

  pid_t pid() const { return pid_; }
  // Readable once the process has ended (pidfd_open(2)).
  int pidfd() const { return pidfd_.get(); }
  // Read end of the child's output, non-blocking.
  UniqueFd& output() { return output_; }
  // Reaps the child when it has ended: its wait(2) status. Waits for that at most `limit`.
  std::optional<int> reap(std::chrono::milliseconds limit);
  // SIGKILL, then reaps. Idempotent.
  void kill();

 private:
  ChildProcess() = default;

  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd output_;
  std::optional<int> status_;
};

}  // namespace ktstr
