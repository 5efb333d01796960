#include "guest/workload/process.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include <fmt/format.h>

namespace ktstr::guest {
namespace {

// Returns the pid, 0 in the child, or -errno. No CLONE_VM: the child gets a copy, as with fork(2). Without
// glibc's fork handlers, which only matter to multi-threaded callers.
long clone_process(std::uint64_t flags, int cgroup_fd, int* pidfd) {
  clone_args args{};
  args.flags = flags | static_cast<__u64>(CLONE_PIDFD);
  args.pidfd = static_cast<__u64>(reinterpret_cast<std::uintptr_t>(pidfd));
  args.exit_signal = SIGCHLD;
  if ((flags & CLONE_INTO_CGROUP) != 0) args.cgroup = static_cast<__u64>(cgroup_fd);
  const long pid = ::syscall(SYS_clone3, &args, sizeof args);
  return pid < 0 ? -errno : pid;
}

}  // namespace

Expected<Forked> fork_process(int cgroup_fd) {
  int pidfd = -1;
  long pid = -1;
  bool in_cgroup = false;
  if (cgroup_fd >= 0) {
    pid = clone_process(CLONE_INTO_CGROUP, cgroup_fd, &pidfd);
    in_cgroup = pid >= 0;
  }
  if (pid < 0) pid = clone_process(0, -1, &pidfd);
  if (pid < 0) {
    errno = static_cast<int>(-pid);
    return fail_errno(ErrorCode::kHost, "cannot make a process");
  }
  Forked forked;
  forked.pid = static_cast<pid_t>(pid);
  forked.in_cgroup = in_cgroup;
  if (pid > 0) forked.pidfd = UniqueFd(pidfd);
  return forked;
}

std::string to_string(const ExitStatus& status) {
  return status.signaled ? fmt::format("killed by signal {}", status.value)
                         : fmt::format("exited {}", status.value);
}

std::optional<ExitStatus> try_reap(int pidfd) {
  siginfo_t info{};
  int result = 0;
  do {
    result = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return ExitStatus{};
  if (info.si_pid == 0) return std::nullopt;
  return ExitStatus{info.si_code != CLD_EXITED, info.si_status};
}

void kill_process_group(pid_t pid, int pidfd) {
  ::syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  if (pid > 1) ::kill(-pid, SIGKILL);
}

void allow_descriptors(std::size_t more) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  // What is open already is a few dozen plus earlier workers' pidfds; there is no cheap way to count them.
  const rlim_t wanted = static_cast<rlim_t>(more) * 2 + 1024;
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  limit.rlim_max = std::max(limit.rlim_max, wanted);
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace ktstr::guest
