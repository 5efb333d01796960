// The walk through a guest that stands still: finds every object of its sched_ext state and copies it.
//
// Speed is all here, for the guest waits: nothing is interpreted that is not needed to find the next object,
// no name is looked up, no text is made but for damage. The order is that of importance, so that a budget
// that runs out costs the least: globals, CPUs, schedulers, dispatch queues, tasks, stacks.
//
// Each pass gates itself on what it needs and leaves the others alone: without per-CPU offsets (a freeze in
// early boot) there are no CPUs, but tasks and schedulers; without sched_ext there are CPUs and tasks.
#pragma once

#include <cstdint>
#include <optional>

#include "host/inspect/scx/scx_objects.h"
#include "host/inspect/scx/scx_plan.h"
#include "host/kernel/guest_kernel.h"
#include "host/memory/captured_memory.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Bounds of a capture.
struct CaptureLimits {
  std::uint64_t max_tasks = 200'000;
  std::uint64_t max_dsqs = 100'000;
  std::uint64_t max_scheds = 4096;
  std::uint64_t bytes = std::uint64_t{512} << 20;
  std::uint64_t reads = 40'000'000;
  // Of one task's stack, from its stack pointer on.
  std::uint64_t stack_bytes = 8192;
};

// What is known from elsewhere: a scheduler that a trapped function was told about, and the vCPUs' registers.
struct CaptureHints {
  Kva sched;
  // Stack pointers of the vCPUs, by CPU; 0 for those in user mode.
  std::vector<Kva> stack_pointers;
};

// `memory` reads the stopped guest; copies go into `captured`, which is prepared and not sealed by this.
ScxObjects capture_scx(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                       CapturedMemory& captured, const CaptureHints& hints = {},
                       const CaptureLimits& limits = {});

// Copies struct scx_exit_info of `sched` (0: the global of older kernels) with its texts and backtrace, which
// are written while the scheduler is on its way out. Returns its address; 0 when there is none.
Kva capture_exit_info(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                      CapturedMemory& captured, Kva sched, ReadBudget& budget);

}  // namespace ktstr
