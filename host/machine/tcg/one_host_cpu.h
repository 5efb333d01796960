// OneHostCpu: a deterministic emulator keeps all its threads on one CPU of the host.
//
// With an instruction clock all vCPUs share a thread, and take turns that end by what they have executed.
// QEMU's main loop is a thread of its own. When all vCPUs are idle it moves the clock to the next timer and
// wakes the vCPU thread; then it comes round once or twice more before it sleeps. The vCPU thread, awake,
// lets go of the big lock for an instant before it runs the timer (accel/tcg/tcg-accel-ops-rr.c,
// rr_cpu_thread_fn). If the main loop comes round in that instant, it still finds all vCPUs idle, a timer
// due, and asks all of them to end their turns (accel/tcg/icount-common.c, icount_start_warp_timer: deadline
// == 0; util/main-loop.c, qemu_timer_notify_cb; rr_kick_vcpu_thread). From there on they take turns in
// another order, and the run is another one. On a quiet host the main loop sleeps long before that instant;
// on a busy one up to 3 of 10 runs differed, each time in one of a few ways.
//
// So the main loop goes first: both threads are on one CPU, and a wake-up of the vCPU thread never takes it
// from the main loop. SCHED_FIFO for the main loop says so; where that is not allowed, SCHED_BATCH for the
// others (sched(7): they do not preempt when they wake up) leaves a gap, the preemption of the main loop by
// some third program.
//
// Emulators that run at the same time get different CPUs, as far as there are.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

class OneHostCpu {
 public:
  // A CPU that this process may use and no other emulator of this user has taken; if all are taken, any.
  // Error kHost when the kernel does not say which it may use.
  static Expected<OneHostCpu> take();

  std::uint32_t cpu() const { return cpu_; }
  // All threads that the process has now, its main thread before the others; those that they make later stay
  // on the CPU with them. Error kHost.
  Expected<void> confine(pid_t process) const;

 private:
  std::uint32_t cpu_ = 0;
  UniqueFd lease_;  // a socket whose name says that the CPU is taken; it vanishes with us
};

}  // namespace ktstr
