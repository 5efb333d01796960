#include "host/explore/explorer.h"

#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <list>
#include <optional>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <fmt/format.h>

#include "common/wait_status.h"
#include "host/explore/seed_outcome.h"
#include "host/explore/seed_process.h"
#include "host/explore/signature.h"
#include "host/run/console_scanner.h"

namespace ktstr {
namespace {

using namespace std::chrono_literals;
using boost::system::error_code;
using SteadyClock = std::chrono::steady_clock;

// More than `ktstr-vm run` takes for an orderly end (Attempt: 10 s).
constexpr auto kTermGrace = 30s;
constexpr auto kTick = 1s;
// Progress lines where no line can be rewritten: one in so many seeds.
constexpr std::uint64_t kSeedsPerLine = 10;
// The end of a run's output that is kept for a message.
constexpr std::size_t kMaxTail = std::size_t{8} << 10;
// The largest pipe that one can have without privileges (/proc/sys/fs/pipe-max-size).
constexpr std::size_t kMaxPipe = std::size_t{1} << 20;
constexpr int kFirstTypedExit = static_cast<int>(ErrorCode::kNoBoot);
constexpr int kLastTypedExit = static_cast<int>(ErrorCode::kStartFailed);

// A seed under way.
struct Job {
  Job(boost::asio::io_context& loop, std::uint64_t its_seed, SeedProcess its_process)
      : seed(its_seed),
        process(std::move(its_process)),
        ended(loop, process.pidfd().release()),
        output(loop, process.output().release()),
        start(SteadyClock::now()) {}

  std::uint64_t seed;
  SeedProcess process;
  boost::asio::posix::stream_descriptor ended;
  boost::asio::posix::stream_descriptor output;
  SteadyClock::time_point start;
  std::array<char, 4096> buffer{};
  std::string tail;
};

void add_to_tail(std::string& tail, std::string_view text) {
  tail += text;
  if (tail.size() > 2 * kMaxTail) tail.erase(0, tail.size() - kMaxTail);
}

// The tail, line by line fit for a terminal, without the line for machines.
std::string readable(std::string_view tail) {
  if (tail.size() > kMaxTail) tail.remove_prefix(tail.size() - kMaxTail);
  std::string text;
  while (!tail.empty()) {
    const std::string_view line = tail.substr(0, tail.find('\n'));
    tail.remove_prefix(std::min(tail.size(), line.size() + 1));
    if (line.empty() || line.starts_with("ktstr-vm: verdict=")) continue;
    text += (text.empty() ? "" : "\n") + printable(line);
  }
  return text;
}

bool is_exit_of_run(int code) {
  return code == 0 || code == 1 || (code >= 3 && code <= 5) ||
         (code >= kFirstTypedExit && code <= kLastTypedExit) ||
         code == static_cast<int>(ErrorCode::kInconclusive);
}

class Exploration {
 public:
  Exploration(ExploreState& state, const ExploreOptions& options, StatusLine& status)
      : state_(state),
        options_(options),
        status_(status),
        signals_(loop_, SIGINT, SIGTERM),
        budget_(loop_),
        tick_(loop_),
        axe_(loop_),
        next_seed_(state.header().first_seed) {}

  ExploreEnd run() {
    wait_for_signal();
    if (options_.budget > 0ns) {
      budget_.expires_after(options_.budget);
      budget_.async_wait([this](const error_code& error) {
        if (!error) no_more(ExploreEnd::Why::kBudget);
      });
    }
    wait_for_tick();
    fill();
    loop_.run();
    status_.clear();
    end_.why = why_.value_or(ExploreEnd::Why::kSeedsDone);
    end_.wall = SteadyClock::now() - start_;
    return end_;
  }

 private:
  // Starts runs until all places are taken; ends the loop when nothing is left to wait for.
  void fill() {
    while (!why_ && jobs_.size() < options_.jobs) {
      const auto seed = take_seed();
      if (!seed) break;
      start(*seed);
    }
    show_progress();
    if (!jobs_.empty()) return;
    signals_.cancel();
    budget_.cancel();
    tick_.cancel();
    axe_.cancel();
  }

  std::optional<std::uint64_t> take_seed() {
    const std::uint64_t first = state_.header().first_seed;
    while (!wrapped_ && (options_.seeds == 0 || next_seed_ - first < options_.seeds)) {
      const std::uint64_t seed = next_seed_++;
      wrapped_ = next_seed_ == 0;
      if (!state_.findings().knows(seed)) return seed;
    }
    return std::nullopt;
  }

  void start(std::uint64_t seed) {
    // What a run left that was killed in an earlier session.
    std::error_code error;
    std::filesystem::remove_all(state_.seed_folder(seed), error);
    if (error) {
      trouble(static_cast<int>(ErrorCode::kHost),
              fmt::format("cannot remove '{}': {}", state_.seed_folder(seed).string(), error.message()));
      return;
    }
    std::vector<std::string> argv = {"ktstr-vm", "run"};
    const auto& arguments = state_.header().run_arguments;
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    argv.push_back(fmt::format("--deterministic={}", seed));
    argv.push_back("--out=" + state_.seed_folder(seed).string());
    auto process = SeedProcess::spawn(options_.program, argv);
    if (!process) {
      trouble(static_cast<int>(process.error().code()), process.error().to_string());
      return;
    }
    jobs_.emplace_back(loop_, seed, std::move(*process));
    const auto job = std::prev(jobs_.end());
    read_output(*job);
    job->ended.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                          [this, job](const error_code& failed) {
                            if (!failed) finish(job);
                          });
  }

  // Waits and then reads, in place of one asynchronous read: that may have taken bytes out of the pipe
  // already when the run's end is handled, which comes first in line.
  void read_output(Job& job) {
    job.output.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                          [this, &job](const error_code& error) {
                            if (!error && drain_output(job)) read_output(job);
                          });
  }

  // Takes what is in the pipe now, all of it: the end is what matters. False when nothing more will come. Not
  // read to the end of file, since somebody the run left behind may hold its other end for ever, and write to
  // it.
  static bool drain_output(Job& job) {
    error_code error;
    job.output.non_blocking(true, error);
    for (std::size_t left = kMaxPipe; left > 0;) {
      const std::size_t size = job.output.read_some(boost::asio::buffer(job.buffer), error);
      if (error == boost::asio::error::would_block || error == boost::asio::error::interrupted) return true;
      if (error || size == 0) return false;
      add_to_tail(job.tail, std::string_view(job.buffer.data(), size));
      left -= std::min(left, size);
    }
    return true;
  }

  void finish(std::list<Job>::iterator job) {
    drain_output(*job);
    const int wait_status = job->process.reap();
    conclude(*job, wait_status);
    // Its read handler is still to come, with an error, and must find the job.
    error_code ignored;
    job->output.close(ignored);
    job->ended.close(ignored);
    done_.splice(done_.end(), jobs_, job);
    boost::asio::post(loop_, [this] { done_.clear(); });
    // The timer may not have had its turn yet.
    if (options_.budget > 0ns && SteadyClock::now() - start_ >= options_.budget)
      no_more(ExploreEnd::Why::kBudget);
    fill();
  }

  void conclude(const Job& job, int wait_status) {
    const bool exited = WIFEXITED(wait_status);
    const int code = exited ? WEXITSTATUS(wait_status) : -1;
    // The very first run: when it does not come to testing anything, no other will.
    const bool hopeless =
        code == static_cast<int>(ErrorCode::kUsage) || code == static_cast<int>(ErrorCode::kHost) ||
        (code >= kFirstTypedExit && code <= kLastTypedExit && state_.findings().seeds() == 0);
    if (hopeless || !is_exit_of_run(code)) {
      if (stopping_) {
        forget(job.seed);
        return;
      }
      trouble(hopeless ? code : static_cast<int>(ErrorCode::kHost),
              fmt::format("the run of seed {} ended with {}:\n{}", job.seed, describe_exit(wait_status),
                          readable(job.tail)));
      return;
    }
    SeedOutcome outcome = read_outcome(job.seed, code, state_.seed_folder(job.seed));
    // A run that we ended ourselves says nothing about its seed.
    if (stopping_ && code == static_cast<int>(ErrorCode::kInconclusive)) {
      forget(job.seed);
      return;
    }
    const auto wall = std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - job.start);
    outcome.record.wall_ms = static_cast<std::uint64_t>(wall.count());
    record(std::move(outcome));
  }

  void record(SeedOutcome outcome) {
    SeedRecord& record = outcome.record;
    const bool keep =
        record.failed() && !outcome.run_folder.empty() && state_.findings().wants_folder(record.signature);
    if (keep) {
      record.folder = outcome.run_folder.lexically_relative(state_.path()).string();
    } else {
      forget(record.seed);
    }
    const auto is_new = state_.add(record);
    if (!is_new) {
      trouble(static_cast<int>(is_new.error().code()), is_new.error().to_string());
      return;
    }
    ++end_.seeds;
    if (*is_new) {
      status_.event(fmt::format("seed {}: new failure {}: {}", record.seed, signature_hash(record.signature),
                                record.signature));
    } else if (!options_.live && end_.seeds % kSeedsPerLine == 0) {
      status_.event(progress());
    }
    if (record.failed() && options_.until_failure) stop(ExploreEnd::Why::kFailure);
  }

  void forget(std::uint64_t seed) const {
    std::error_code ignored;
    std::filesystem::remove_all(state_.seed_folder(seed), ignored);
  }

  // No seed is started from now on.
  void no_more(ExploreEnd::Why why) {
    if (!why_) why_ = why;
  }

  // The runs under way are ended as well.
  void stop(ExploreEnd::Why why) {
    no_more(why);
    if (stopping_) return;
    stopping_ = true;
    for (const Job& job : jobs_) job.process.signal(SIGTERM);
    axe_.expires_after(kTermGrace);
    axe_.async_wait([this](const error_code& error) {
      if (error) return;
      for (const Job& job : jobs_) job.process.signal(SIGKILL);
    });
  }

  void trouble(int exit_code, std::string message) {
    if (why_ != ExploreEnd::Why::kTrouble) {
      end_.exit_code = exit_code;
      end_.message = std::move(message);
    }
    why_ = ExploreEnd::Why::kTrouble;
    stop(ExploreEnd::Why::kTrouble);
  }

  void wait_for_signal() {
    signals_.async_wait([this](const error_code& error, int number) {
      if (error) return;
      const std::string name = number == SIGINT ? "SIGINT" : "SIGTERM";
      ++signal_count_;
      if (signal_count_ == 1) {
        status_.event(fmt::format("{}: ending {} runs; what was found is kept", name, jobs_.size()));
        if (!why_ || why_ == ExploreEnd::Why::kBudget) {
          why_ = ExploreEnd::Why::kSignal;
          end_.message = name;
        }
        stop(ExploreEnd::Why::kSignal);
      } else {
        for (const Job& job : jobs_) job.process.signal(signal_count_ == 2 ? SIGTERM : SIGKILL);
      }
      if (!jobs_.empty()) wait_for_signal();
    });
  }

  void wait_for_tick() {
    tick_.expires_after(kTick);
    tick_.async_wait([this](const error_code& error) {
      if (error || jobs_.empty()) return;
      show_progress();
      wait_for_tick();
    });
  }

  std::string progress() const {
    const Findings& findings = state_.findings();
    const double hours = std::chrono::duration<double, std::ratio<3600>>(SteadyClock::now() - start_).count();
    const double rate = hours > 0 ? static_cast<double>(end_.seeds) / hours : 0;
    const std::string of = options_.seeds != 0 ? fmt::format(" of {}", options_.seeds) : "";
    return fmt::format("{}{} seeds, {} failures, {} distinct, {:.0f} seeds/h", findings.seeds(), of,
                       findings.failures(), findings.group_count(), rate);
  }

  void show_progress() { status_.update(fmt::format("{}, {} running", progress(), jobs_.size())); }

  ExploreState& state_;
  const ExploreOptions& options_;
  StatusLine& status_;
  boost::asio::io_context loop_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer budget_;
  boost::asio::steady_timer tick_;
  boost::asio::steady_timer axe_;
  SteadyClock::time_point start_ = SteadyClock::now();
  std::uint64_t next_seed_;
  bool wrapped_ = false;  // all 64-bit numbers were used
  std::list<Job> jobs_;
  std::list<Job> done_;
  std::optional<ExploreEnd::Why> why_;
  bool stopping_ = false;
  unsigned signal_count_ = 0;
  ExploreEnd end_;
};

}  // namespace

const char* name_of(ExploreEnd::Why why) {
  switch (why) {
    case ExploreEnd::Why::kSeedsDone:
      return "seeds-done";
    case ExploreEnd::Why::kBudget:
      return "budget";
    case ExploreEnd::Why::kFailure:
      return "failure";
    case ExploreEnd::Why::kSignal:
      return "signal";
    case ExploreEnd::Why::kTrouble:
      return "trouble";
  }
  return "?";
}

ExploreEnd explore(ExploreState& state, const ExploreOptions& options, StatusLine& status) {
  return Exploration(state, options, status).run();
}

}  // namespace ktstr
