#include "guest/init/scheduler_process.h"

#include <fcntl.h>
#include <pty.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <ctime>

#include "common/quote.h"

namespace ktstr::guest {
namespace {

// Output read in one turn of the loop, so that a flood does not starve the rest.
constexpr std::size_t kReadPerTurn = std::size_t{64} << 10;
// Output read at the end at most: the terminal's buffers are far smaller.
constexpr std::size_t kReadAtEnd = std::size_t{4} << 20;

// NO_COLOR: the output goes into a log, although it comes over a terminal.
constexpr std::array<const char*, 6> kEnvironment = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "TERM=dumb",
    "NO_COLOR=1",
    "RUST_BACKTRACE=1",
    nullptr};

struct Terminal {
  UniqueFd ours;
  UniqueFd theirs;
};

Expected<Terminal> open_terminal() {
  termios raw{};
  ::cfmakeraw(&raw);
  raw.c_cflag |= CREAD;
  int ours = -1;
  int theirs = -1;
  if (::openpty(&ours, &theirs, nullptr, &raw, nullptr) != 0) {
    return fail_errno(ErrorCode::kHost, "cannot open a pseudo terminal for the scheduler's output");
  }
  Terminal terminal{.ours = UniqueFd(ours), .theirs = UniqueFd(theirs)};
  ::fcntl(ours, F_SETFD, FD_CLOEXEC);
  ::fcntl(theirs, F_SETFD, FD_CLOEXEC);
  ::fcntl(ours, F_SETFL, O_RDWR | O_NONBLOCK);
  return terminal;
}

// posix_spawn's two parameter objects.
struct SpawnPlan {
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_t actions;
  SpawnPlan() {
    ::posix_spawnattr_init(&attributes);
    ::posix_spawn_file_actions_init(&actions);
  }
  ~SpawnPlan() {
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
};

}  // namespace

Expected<std::unique_ptr<SchedulerProcess>> SchedulerProcess::start(const std::string& path,
                                                                    const std::vector<std::string>& args,
                                                                    EventLoop& loop,
                                                                    OutputHandler on_output) {
  std::unique_ptr<SchedulerProcess> process(new SchedulerProcess(loop, std::move(on_output)));
  if (Expected<> spawned = process->spawn(path, args); !spawned)
    return std::unexpected(std::move(spawned.error()));
  if (Expected<> watched = process->watch(); !watched) return std::unexpected(std::move(watched.error()));
  return process;
}

Expected<> SchedulerProcess::spawn(const std::string& path, const std::vector<std::string>& args) {
  Expected<Terminal> terminal = open_terminal();
  if (!terminal) return std::unexpected(std::move(terminal.error()));

  SpawnPlan plan;
  ::posix_spawn_file_actions_addopen(&plan.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&plan.actions, terminal->theirs.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&plan.actions, terminal->theirs.get(), STDERR_FILENO);
  ::posix_spawn_file_actions_addchdir_np(&plan.actions, "/");
  sigset_t none;
  sigset_t all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&plan.attributes, &none);
  ::posix_spawnattr_setsigdefault(&plan.attributes, &all);
  ::posix_spawnattr_setflags(&plan.attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<char*> argv = {const_cast<char*>(path.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  const int error = ::posix_spawn(&pid_, path.c_str(), &plan.actions, &plan.attributes, argv.data(),
                                  const_cast<char**>(kEnvironment.data()));
  if (error != 0) {
    pid_ = -1;
    return std::unexpected(
        Error::from_errno(ErrorCode::kStartFailed, "cannot run the scheduler " + quote(path), error));
  }
  terminal_ = std::move(terminal->ours);
  pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!pidfd_) return fail_errno(ErrorCode::kHost, "cannot open a pidfd of the scheduler's process");
  ::fcntl(pidfd_.get(), F_SETFD, FD_CLOEXEC);
  return {};
}

Expected<> SchedulerProcess::watch() {
  if (Expected<> watched = loop_.watch(pidfd_.get(), EPOLLIN, [this](std::uint32_t) { reap(); }); !watched)
    return watched;
  return loop_.watch(terminal_.get(), EPOLLIN, [this](std::uint32_t) { read_output(kReadPerTurn); });
}

SchedulerProcess::~SchedulerProcess() {
  if (pidfd_) loop_.unwatch(pidfd_.get());
  if (terminal_) loop_.unwatch(terminal_.get());
  if (pid_ > 0 && !wait_status_) {
    signal_group(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

void SchedulerProcess::reap() {
  cpu_time();  // the clock goes with the process
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) == pid_) wait_status_ = status;
  if (wait_status_) loop_.unwatch(pidfd_.get());
}

void SchedulerProcess::read_output(std::size_t limit) {
  std::array<char, 4096> buffer{};
  for (std::size_t total = 0; total < limit && !output_ended_;) {
    const ssize_t count = ::read(terminal_.get(), buffer.data(), buffer.size());
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {  // EIO: nobody holds the other end any more
      output_ended_ = true;
      loop_.unwatch(terminal_.get());
      return;
    }
    const std::string_view data(buffer.data(), static_cast<std::size_t>(count));
    total += data.size();
    output_bytes_ += data.size();
    tail_.add(data);
    if (const std::string_view now = budget_.take(data); !now.empty()) on_output_(now, 0);
  }
}

void SchedulerProcess::finish_output() {
  read_output(kReadAtEnd);
  const OutputBudget::Rest rest = budget_.take_rest();
  if (!rest.data.empty() || rest.dropped > 0) on_output_(rest.data, rest.dropped);
}

std::chrono::nanoseconds SchedulerProcess::cpu_time() {
  clockid_t clock{};
  timespec time{};
  if (!wait_status_ && ::clock_getcpuclockid(pid_, &clock) == 0 && ::clock_gettime(clock, &time) == 0) {
    cpu_time_ =
        std::max(cpu_time_, std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
  }
  return cpu_time_;
}

void SchedulerProcess::signal_group(int signal) const {
  if (pid_ > 0) ::kill(-pid_, signal);
}

}  // namespace ktstr::guest
