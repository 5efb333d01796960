// Supervisor: what the scenario executor asks of PID 1 while it waits.
//
// PID 1 is single-threaded: one epoll loop serves the frame port, the scheduler's output and exit, orphans,
// and the heartbeat. The executor runs on that same thread and gives the loop back whenever it has to wait,
// so nothing needs a lock, and a hold ends on time even while every CPU spins (PID 1 runs at SCHED_FIFO).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "proto/frames.pb.h"

namespace ktstr::guest {

// CLOCK_MONOTONIC of the guest.
using MonotonicTime = std::chrono::nanoseconds;
MonotonicTime monotonic_now();

class Supervisor {
 public:
  enum class Wake {
    kDeadline,       // the time is over
    kReadable,       // `fd` became readable or its other end was closed
    kSchedulerGone,  // the scheduler under test left, died, or was thrown out by the kernel
    kStopRequested,  // the host asked for an orderly end
  };

  virtual ~Supervisor() = default;

  // Serves PID 1's loop until `deadline` (CLOCK_MONOTONIC) or one of the other reasons. `fd` < 0: none. A
  // stop request or a vanished scheduler is reported on every call until the end: callers that must go on
  // waiting (teardown) pass ignore_end = true.
  virtual Wake wait_until(MonotonicTime deadline, int fd = -1, bool ignore_end = false) = 0;

  // Sends a frame; guest_ns is filled in. Never blocks for longer than the port's back-pressure.
  virtual void send(ktstr::v1::Frame frame) = 0;

  // Says what is going on, for heartbeats: "step 1/3".
  virtual void set_phase(std::string phase) = 0;
  // Gives the sum of all workers' iteration counters for heartbeats; an empty function: none.
  virtual void set_iteration_source(std::function<std::uint64_t()> source) = 0;

  // Tells PID 1 that the child `pid` belongs to the caller: it will not be reaped as an orphan. The caller
  // reaps it.
  virtual void adopt_child(int pid) = 0;
  virtual void forget_child(int pid) = 0;
};

}  // namespace ktstr::guest
