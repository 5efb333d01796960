#include "host/explore/run_series.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <list>

#include <fmt/format.h>

#include "common/unique_fd.h"
#include "host/explore/seed_process.h"
#include "host/report/json_reader.h"
#include "host/report/verdict_text.h"
#include "host/run/console_scanner.h"

namespace ktstr {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kTickMs = 1000;
constexpr std::size_t kMaxWords = std::size_t{64} << 10;
constexpr std::size_t kMaxResult = std::size_t{256} << 20;
constexpr std::string_view kResultMark = " result=";

// SIGINT and SIGTERM as a descriptor, as long as it lives.
class SignalFd {
 public:
  SignalFd() {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGINT);
    ::sigaddset(&signals, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &signals, &before_);
    fd_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  SignalFd(const SignalFd&) = delete;
  SignalFd& operator=(const SignalFd&) = delete;
  ~SignalFd() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  int fd() const { return fd_.get(); }
  // The signals that have come, one after the other; 0: none.
  int take() const {
    signalfd_siginfo info{};
    return ::read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  sigset_t before_{};
  UniqueFd fd_;
};

struct Job {
  std::size_t index = 0;
  SeedProcess process;
  SteadyClock::time_point start = SteadyClock::now();
  std::string words = {};
};

// The last line's result=PATH, to its end.
std::string result_path_of(std::string_view words) {
  while (words.ends_with('\n')) words.remove_suffix(1);
  const std::string_view line = words.substr(words.rfind('\n') + 1);
  const std::size_t mark = line.find(kResultMark);
  if (!line.starts_with("ktstr-vm: ") || mark == std::string_view::npos) return {};
  const std::string path(line.substr(mark + kResultMark.size()));
  return path == "-" ? std::string() : path;
}

// Line by line fit for a terminal, without the one for machines.
std::string readable(std::string_view words) {
  std::string text;
  while (!words.empty()) {
    const std::string_view line = words.substr(0, words.find('\n'));
    words.remove_prefix(std::min(words.size(), line.size() + 1));
    if (!line.empty() && !line.starts_with("ktstr-vm: verdict=")) text += printable(line) + "\n";
  }
  return text;
}

class Series {
 public:
  Series(const std::string& program, const std::vector<SeriesRun>& runs, unsigned jobs, StatusLine& status)
      : program_(program), runs_(runs), most_jobs_(jobs), status_(status), outcomes_(runs.size()) {
    for (std::size_t i = 0; i < runs.size(); ++i) outcomes_[i].scenario = runs[i].scenario;
  }

  std::vector<SeriesOutcome> run() {
    while (true) {
      while (signals_seen_ == 0 && next_ < runs_.size() && jobs_.size() < most_jobs_) start();
      if (jobs_.empty()) break;
      status_.update(fmt::format("{} of {} runs done, {} running", done_, runs_.size(), jobs_.size()));
      wait();
    }
    return std::move(outcomes_);
  }

 private:
  void start() {
    const std::size_t index = next_++;
    std::vector<std::string> argv = {"ktstr-vm", "run"};
    const auto& arguments = runs_[index].arguments;
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    outcomes_[index].started = true;
    // A group of its own: what the terminal sends comes to us alone, and we pass it on.
    auto process = SeedProcess::spawn(program_, argv, SeedProcess::Group::kOwn);
    if (process) {
      jobs_.push_back({.index = index, .process = std::move(*process)});
      return;
    }
    outcomes_[index].exit_code = static_cast<int>(process.error().code());
    outcomes_[index].words = process.error().to_string() + "\n";
    ++done_;
  }

  void wait() {
    std::vector<pollfd> fds = {{.fd = signals_.fd(), .events = POLLIN, .revents = 0}};
    for (Job& job : jobs_) {
      fds.push_back({.fd = job.process.pidfd().get(), .events = POLLIN, .revents = 0});
      fds.push_back({.fd = job.process.output().get(), .events = POLLIN, .revents = 0});
    }
    if (::poll(fds.data(), fds.size(), kTickMs) <= 0) return;
    while (const int number = signals_.take()) pass_on(number);
    std::size_t at = 1;
    for (auto job = jobs_.begin(); job != jobs_.end(); at += 2) {
      const bool ended = fds[at].revents != 0;
      if (ended || fds[at + 1].revents != 0) read_output(*job);
      if (ended) finish(*job);
      job = ended ? jobs_.erase(job) : std::next(job);
    }
  }

  void pass_on(int number) {
    if (++signals_seen_ == 1) {
      status_.event(fmt::format("{}: ending {} run{} (again to end at once)",
                                number == SIGINT ? "SIGINT" : "SIGTERM", jobs_.size(),
                                jobs_.size() == 1 ? "" : "s"));
    }
    for (const Job& job : jobs_) job.process.signal(signals_seen_ > 2 ? SIGKILL : number);
  }

  // Not to the end of file: somebody the run left behind may hold the other end. Its end is closed by poll's
  // word.
  static void read_output(Job& job) {
    std::array<char, 16384> buffer{};
    ssize_t count = 0;
    while (job.process.output() &&
           (count = ::read(job.process.output().get(), buffer.data(), buffer.size())) > 0) {
      job.words.append(buffer.data(), static_cast<std::size_t>(count));
      if (job.words.size() > 2 * kMaxWords) job.words.erase(0, job.words.size() - kMaxWords);
    }
    // A pipe that has ended is always readable; poll ignores a descriptor of -1.
    if (count == 0) job.process.output().reset();
  }

  void finish(Job& job) {
    const int wait_status = job.process.reap();
    SeriesOutcome& outcome = outcomes_[job.index];
    outcome.exit_code =
        WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : static_cast<int>(ErrorCode::kHost);
    outcome.took = SteadyClock::now() - job.start;
    outcome.result_path = result_path_of(job.words);
    if (!outcome.result_path.empty()) {
      if (auto result = read_result(outcome.result_path, kMaxResult, ErrorCode::kHost))
        outcome.result = *result;
    }
    if (outcome.result.schema_version() == 0) outcome.words = readable(job.words);
    ++done_;
    status_.event(fmt::format("run {} of {}: {}: exit {}", job.index + 1, runs_.size(), outcome.scenario,
                              outcome.exit_code));
  }

  const std::string& program_;
  const std::vector<SeriesRun>& runs_;
  unsigned most_jobs_;
  StatusLine& status_;
  SignalFd signals_;
  std::vector<SeriesOutcome> outcomes_;
  std::list<Job> jobs_;
  std::size_t next_ = 0;
  std::size_t done_ = 0;
  unsigned signals_seen_ = 0;
};

}  // namespace

std::vector<SeriesOutcome> run_series(const std::string& program, const std::vector<SeriesRun>& runs,
                                      unsigned jobs, StatusLine& status) {
  return Series(program, runs, jobs, status).run();
}

}  // namespace ktstr
