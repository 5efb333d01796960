#include "host/explore/seed_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include <fmt/format.h>

namespace ktstr {
namespace {

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Expected<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(ErrorCode::kHost, "cannot create a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Only async-signal-safe calls between fork and exec.
[[noreturn]] void run_child(const char* program, char* const* argv, int null_fd, int output_fd, int error_fd,
                            pid_t parent, SeedProcess::Group group) {
  const bool bound = ::prctl(PR_SET_PDEATHSIG, SIGTERM) == 0;
  // A parent that died before the prctl sends nothing.
  if (bound && ::getppid() != parent) ::_exit(127);
  if (group == SeedProcess::Group::kOwn) ::setpgid(0, 0);
  for (int number = 1; number < NSIG; ++number) {
    if (number != SIGKILL && number != SIGSTOP) std::signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (bound && ::dup2(null_fd, 0) >= 0 && ::dup2(output_fd, 1) >= 0 && ::dup2(output_fd, 2) >= 0 &&
      ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) == 0) {
    ::execv(program, argv);
  }
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(error_fd, &error, sizeof(error));
  ::_exit(127);
}

// Moves a descriptor above the standard ones, which the child overwrites.
Expected<UniqueFd> above_standard(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) return fail_errno(ErrorCode::kHost, "cannot duplicate a descriptor for a child process");
  return copy;
}

}  // namespace

Expected<SeedProcess> SeedProcess::spawn(const std::string& program, const std::vector<std::string>& argv,
                                         Group group) {
  auto output = make_pipe();
  if (!output) return std::unexpected(std::move(output.error()));
  auto errors = make_pipe();
  if (!errors) return std::unexpected(std::move(errors.error()));
  const UniqueFd null_fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null_fd) return fail_errno(ErrorCode::kHost, "cannot open /dev/null");
  auto output_fd = above_standard(output->write.get());
  if (!output_fd) return std::unexpected(std::move(output_fd.error()));
  auto error_fd = above_standard(errors->write.get());
  if (!error_fd) return std::unexpected(std::move(error_fd.error()));

  std::vector<std::string> words = argv;
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  SeedProcess process;
  const pid_t parent = ::getpid();
  process.pid_ = ::fork();
  if (process.pid_ < 0) return fail_errno(ErrorCode::kHost, "cannot create a process");
  if (process.pid_ == 0) {
    run_child(program.c_str(), pointers.data(), null_fd.get(), output_fd->get(), error_fd->get(), parent,
              group);
  }
  // glibc 2.36 declares pidfd_open without C linkage, so C++ cannot call it.
  process.pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, process.pid_, 0)));
  if (!process.pidfd_) return fail_errno(ErrorCode::kHost, "cannot open a pidfd");
  error_fd->reset();
  errors->write.reset();
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(errors->read.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == sizeof(error)) {
    return std::unexpected(
        Error::from_errno(ErrorCode::kHost, fmt::format("cannot execute '{}'", program), error));
  }
  process.output_ = std::move(output->read);
  ::fcntl(process.output_.get(), F_SETFL, O_NONBLOCK);
  return process;
}

SeedProcess::SeedProcess(SeedProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      output_(std::move(other.output_)) {}

SeedProcess::~SeedProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  reap();
}

void SeedProcess::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

int SeedProcess::reap() {
  int status = 0;
  pid_t got = 0;
  do {
    got = ::waitpid(pid_, &status, 0);
  } while (got < 0 && errno == EINTR);
  // Somebody else reaped it: it is gone, how is not known.
  if (got != pid_) status = SIGKILL;
  pid_ = -1;
  return status;
}

}  // namespace ktstr
