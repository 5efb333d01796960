// EventLoop: descriptors and timers of one thread, on epoll.
//
// Time-outs are the argument of epoll_pwait2(2), nanosecond by nanosecond, and not timerfds: a wait costs one
// system call, and PID 1 at SCHED_FIFO wakes when the hrtimer fires. Nothing here ever polls in a circle.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "guest/scenario/supervisor.h"

namespace ktstr::guest {

class EventLoop {
 public:
  // Gets the EPOLL* bits that are set.
  using FdHandler = std::function<void(std::uint32_t events)>;
  using TimerHandler = std::function<void()>;
  using TimerId = std::uint64_t;

  static Expected<EventLoop> create();

  // Calls `handler` whenever one of `events` (EPOLLIN, EPOLLOUT, level-triggered; errors always count) holds
  // for `fd`, which stays the caller's and must be unwatched before it is closed. A descriptor has one
  // handler. Error kHost; errno EPERM for descriptors that cannot be waited for (regular files).
  Expected<> watch(int fd, std::uint32_t events, FdHandler handler);
  // Changes what is waited for; no effect when `fd` is not watched.
  void change(int fd, std::uint32_t events);
  void unwatch(int fd);

  // Calls `handler` at `at` (CLOCK_MONOTONIC), and then every `interval` unless that is 0. Periods that were
  // missed are skipped, not made up for.
  TimerId add_timer(MonotonicTime at, MonotonicTime interval, TimerHandler handler);
  void cancel_timer(TimerId id);

  // Waits until something happens or `until` has come, and calls the handlers that are due. Handlers may add
  // and remove watches and timers, but must not call run_once.
  void run_once(MonotonicTime until);

 private:
  struct Watch {
    std::uint32_t generation = 0;
    FdHandler handler;
  };
  struct Timer {
    TimerId id = 0;
    MonotonicTime at{};
    MonotonicTime interval{};
    TimerHandler handler;
  };

  explicit EventLoop(UniqueFd epoll) : epoll_(std::move(epoll)) {}
  void run_timers();

  UniqueFd epoll_;
  std::map<int, Watch> watches_;
  std::uint32_t next_generation_ = 0;
  std::vector<Timer> timers_;
  TimerId next_timer_ = 1;
};

}  // namespace ktstr::guest
