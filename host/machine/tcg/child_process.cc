#include "host/machine/tcg/child_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/core.h>

namespace ktstr {
namespace {

// Everything the child needs, made before the fork: afterwards only async-signal-safe calls are allowed.
struct ChildPlan {
  std::vector<char*> argv;
  std::vector<InheritedFd> fds;
  int null_fd = -1;
  int output_fd = -1;
  int error_fd = -1;  // receives errno when something fails; closed by a successful exec
  pid_t parent = -1;
  bool huge_pages = true;
};

[[noreturn]] void report_and_exit(int error_fd) {
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(error_fd, &error, sizeof(error));
  _exit(127);
}

void reset_signals() {
  for (int number = 1; number < NSIG; ++number) {
    if (number != SIGKILL && number != SIGSTOP) std::signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Sources lie above all targets (spawn saw to that), so no dup2 can overwrite a source that is still needed.
[[noreturn]] void run_child(const ChildPlan& plan) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) report_and_exit(plan.error_fd);
  if (getppid() != plan.parent) _exit(127);
  setsid();
  if (!plan.huge_pages) prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  reset_signals();
  if (dup2(plan.null_fd, 0) < 0 || dup2(plan.output_fd, 1) < 0 || dup2(plan.output_fd, 2) < 0) {
    report_and_exit(plan.error_fd);
  }
  unsigned first_unwanted = 3;
  for (const InheritedFd& fd : plan.fds) {
    if (dup2(fd.source, fd.target) < 0) report_and_exit(plan.error_fd);
    first_unwanted = std::max(first_unwanted, static_cast<unsigned>(fd.target) + 1);
  }
  if (close_range(first_unwanted, ~0U, CLOSE_RANGE_CLOEXEC) != 0) report_and_exit(plan.error_fd);
  execv(plan.argv[0], plan.argv.data());
  report_and_exit(plan.error_fd);
}

// A duplicate with a number of at least `least`.
Expected<UniqueFd> duplicate_above(int fd, int least) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, least));
  if (!copy) return fail_errno(ErrorCode::kHost, "cannot duplicate a descriptor for a child process");
  return copy;
}

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Expected<Pipe> make_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail_errno(ErrorCode::kHost, "cannot create a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// glibc 2.36 declares pidfd_open without C linkage, so C++ cannot call it.
int open_pidfd(pid_t pid) {
  return static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
}

// errno from the child, 0 when its exec succeeded.
int exec_error(int fd) {
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(fd, &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  return got == sizeof(error) ? error : 0;
}

}  // namespace

Expected<ChildProcess> ChildProcess::spawn(const std::vector<std::string>& argv,
                                           std::span<const InheritedFd> fds, bool huge_pages) {
  int above = 3;
  for (const InheritedFd& fd : fds) above = std::max(above, fd.target + 1);

  auto output = make_pipe();
  if (!output) return std::unexpected(std::move(output.error()));
  auto errors = make_pipe();
  if (!errors) return std::unexpected(std::move(errors.error()));
  const UniqueFd null_fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null_fd) return fail_errno(ErrorCode::kHost, "cannot open /dev/null");

  // All descriptors the child works with are moved out of the way of the numbers it will have.
  std::vector<UniqueFd> moved;
  auto move_up = [&](int fd) -> Expected<int> {
    auto copy = duplicate_above(fd, above);
    if (!copy) return std::unexpected(std::move(copy.error()));
    moved.push_back(std::move(*copy));
    return moved.back().get();
  };
  ChildPlan plan;
  plan.parent = getpid();
  plan.huge_pages = huge_pages;
  for (const auto& [from, to] :
       {std::pair{null_fd.get(), &plan.null_fd}, std::pair{output->write.get(), &plan.output_fd},
        std::pair{errors->write.get(), &plan.error_fd}}) {
    auto number = move_up(from);
    if (!number) return std::unexpected(std::move(number.error()));
    *to = *number;
  }
  for (const InheritedFd& fd : fds) {
    auto number = move_up(fd.source);
    if (!number) return std::unexpected(std::move(number.error()));
    plan.fds.push_back({*number, fd.target});
  }
  std::vector<std::string> words = argv;
  for (std::string& word : words) plan.argv.push_back(word.data());
  plan.argv.push_back(nullptr);

  ChildProcess child;
  child.pid_ = fork();
  if (child.pid_ < 0) return fail_errno(ErrorCode::kHost, "cannot create a process");
  if (child.pid_ == 0) run_child(plan);

  child.pidfd_.reset(open_pidfd(child.pid_));
  if (!child.pidfd_) return fail_errno(ErrorCode::kHost, "cannot open a pidfd");
  moved.clear();
  errors->write.reset();
  if (const int error = exec_error(errors->read.get()); error != 0) {
    return std::unexpected(
        Error::from_errno(ErrorCode::kHost, fmt::format("cannot execute '{}'", argv[0]), error));
  }
  child.output_ = std::move(output->read);
  fcntl(child.output_.get(), F_SETFL, O_NONBLOCK);
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      output_(std::move(other.output_)),
      status_(std::exchange(other.status_, std::nullopt)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    kill();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
    output_ = std::move(other.output_);
    status_ = std::exchange(other.status_, std::nullopt);
  }
  return *this;
}

std::optional<int> ChildProcess::reap(std::chrono::milliseconds limit) {
  if (pid_ < 0 || status_) return status_;
  if (pidfd_) {
    pollfd ended{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    if (poll(&ended, 1, static_cast<int>(limit.count())) <= 0) return std::nullopt;
  }
  int status = 0;
  pid_t got = 0;
  do {
    got = waitpid(pid_, &status, 0);
  } while (got < 0 && errno == EINTR);
  // Somebody else reaped it (SIGCHLD ignored): it is gone, how is not known.
  status_ = got == pid_ ? status : 0;
  return status_;
}

void ChildProcess::kill() {
  if (pid_ < 0 || status_) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  pid_t got = 0;
  do {
    got = waitpid(pid_, &status, 0);
  } while (got < 0 && errno == EINTR);
  status_ = got == pid_ ? status : 0;
}

}  // namespace ktstr
