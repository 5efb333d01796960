// The process of the scheduler under test: its start, its output, its end.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "guest/init/event_loop.h"
#include "guest/init/output_keeper.h"

namespace ktstr::guest {

class SchedulerProcess {
 public:
  // Lines of output kept for messages.
  static constexpr std::size_t kTailLines = 400;

  // Gets output as it comes, within the budget (OutputBudget); `dropped` bytes are missing before it.
  using OutputHandler = std::function<void(std::string_view data, std::uint64_t dropped)>;

  // Starts `path` with `args` (without argv[0]) in its own session and process group, at SCHED_OTHER
  // (reset-on-fork), all signals at their defaults, a minimal environment, standard input from /dev/null, and
  // its output on a pseudo terminal: the C and Rust libraries then write it line by line, so that it streams.
  // The terminal is raw: bytes arrive as they were written. Error kStartFailed: no such file, not executable,
  // wrong format.
  static Expected<std::unique_ptr<SchedulerProcess>> start(const std::string& path,
                                                           const std::vector<std::string>& args,
                                                           EventLoop& loop, OutputHandler on_output);

  SchedulerProcess(const SchedulerProcess&) = delete;
  SchedulerProcess& operator=(const SchedulerProcess&) = delete;
  // Kills and reaps what still lives.
  ~SchedulerProcess();

  pid_t pid() const { return pid_; }
  // As waitpid(2) gives it, once the process has ended. It is reaped as soon as the loop notices.
  std::optional<int> wait_status() const { return wait_status_; }
  // True when every holder of the terminal is gone: there will be no more output.
  bool output_ended() const { return output_ended_; }
  // CPU time of all its threads, the dead ones included; after its end the last value.
  std::chrono::nanoseconds cpu_time();
  // Bytes of output so far.
  std::uint64_t output_bytes() const { return output_bytes_; }
  const LineTail& tail() const { return tail_; }

  // Sends a signal to its process group. Nothing when the group is gone.
  void signal_group(int signal) const;
  // Reads what has been written by now and hands out what the budget had held back.
  void finish_output();

 private:
  SchedulerProcess(EventLoop& loop, OutputHandler on_output)
      : loop_(loop), on_output_(std::move(on_output)) {}
  Expected<> spawn(const std::string& path, const std::vector<std::string>& args);
  Expected<> watch();
  // Reads up to `limit` bytes.
  void read_output(std::size_t limit);
  void reap();

  EventLoop& loop_;
  OutputHandler on_output_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd terminal_;
  std::optional<int> wait_status_;
  bool output_ended_ = false;
  std::uint64_t output_bytes_ = 0;
  std::chrono::nanoseconds cpu_time_{};
  OutputBudget budget_;
  LineTail tail_{kTailLines};
};

}  // namespace ktstr::guest
