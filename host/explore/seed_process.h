// SeedProcess: one `ktstr-vm run` of an exploration.
//
// Unlike an emulator (host/machine/tcg/child_process.h) it stays in our process group, so that whatever ends
// us from the terminal ends it too, and gets SIGTERM, not SIGKILL, when we die: it has an emulator and a
// folder of its own to bring in order. PR_SET_PDEATHSIG is about the thread that forked (prctl(2)): the
// thread that calls spawn must live as long as the process is wanted.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

class SeedProcess {
 public:
  // Whose signals from the terminal it gets as well.
  enum class Group { kOurs, kOwn };
  // Starts `program` with argv, our environment and working directory, standard input from /dev/null, and
  // standard output and error in one pipe. Error kHost when it cannot be started.
  static Expected<SeedProcess> spawn(const std::string& program, const std::vector<std::string>& argv,
                                     Group group = Group::kOurs);

  SeedProcess(SeedProcess&& other) noexcept;
  SeedProcess& operator=(SeedProcess&& other) = delete;
  SeedProcess(const SeedProcess&) = delete;
  SeedProcess& operator=(const SeedProcess&) = delete;
  // Kills and reaps a process that was not reaped.
  ~SeedProcess();

  // Readable once the process has ended (pidfd_open(2)).
  UniqueFd& pidfd() { return pidfd_; }
  // Read end of its output, non-blocking.
  UniqueFd& output() { return output_; }
  // Sends a signal; nothing happens once it was reaped.
  void signal(int number) const;
  // Waits for its end and gives its wait(2) status; call it when pidfd is readable.
  int reap();

 private:
  SeedProcess() = default;

  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd output_;
};

}  // namespace ktstr
