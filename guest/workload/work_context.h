// WorkContext: what a work type has at hand while it works, and where its progress is measured.
#pragma once

#include <bitset>
#include <chrono>
#include <cstdint>

#include "common/cpu_set.h"
#include "guest/scenario/supervisor.h"
#include "guest/workload/reservoir.h"
#include "guest/workload/shared_area.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// Counts work, looks at clock and CPU every kBlock units, keeps the longest gap and the wake latencies.
//
// A gap is the time between two looks at the clock. It starts with the opening of the gate and ends with the
// stop, both as PID 1 saw them, so that a worker which never gets a CPU shows the whole of it. Time that a
// worker sleeps on purpose is no gap; being late from such a sleep is.
class WorkContext {
 public:
  // Work units between two checkpoints. One look at clock and CPU costs about 22 ns on a PC, 50 to 105 ns in
  // an emulated guest: 2 % of a block at most.
  static constexpr std::uint64_t kBlock = 1024;

  // `opened_at`: when the gate opened. `stopped_at_ns` is the group's stop time, set before `slot.stop`.
  WorkContext(WorkerSlot& slot, const std::atomic<std::int64_t>& stopped_at_ns, MonotonicTime opened_at,
              Xorshift random);

  // True once the worker is to finish. Look at least once an iteration.
  bool stopping() const { return slot_.stop.load(std::memory_order_acquire) != 0; }

  // One block of pure compute and a checkpoint.
  void compute_block();
  // Compute until `cpu_time` of CPU time is used, in whole blocks. Returns false when it was stopped early.
  bool compute_for(std::chrono::nanoseconds cpu_time);
  // sched_yield(2) and a checkpoint.
  void yield();
  // Sleeps `duration` and notes how late the wake-up was. Returns false when it was stopped. A wake-up that
  // is overdue at the stop counts with its lateness up to then.
  bool sleep(std::chrono::nanoseconds duration);
  // Ends one round of the outer loop; one without any compute counts as one unit of work.
  void end_iteration();

  // Fills in what was measured. Call once, after the stop.
  void finish(ktstr::v1::WorkerReport& report);

 private:
  void checkpoint();
  void note_gap(MonotonicTime until, std::uint32_t cpu);
  MonotonicTime stopped_at() const;

  WorkerSlot& slot_;
  const std::atomic<std::int64_t>& stopped_at_ns_;
  const MonotonicTime opened_at_;
  MonotonicTime last_;  // the last checkpoint
  std::uint32_t cpu_ = 0;
  bool cpu_known_ = false;
  std::uint64_t state_ = 1;
  std::uint64_t units_ = 0;
  std::uint64_t units_before_iteration_ = 0;
  std::uint64_t iterations_ = 0;
  std::uint64_t migrations_ = 0;
  MonotonicTime max_gap_{0};
  MonotonicTime max_gap_at_{0};
  std::uint32_t max_gap_cpu_ = 0;
  std::bitset<CpuSet::kMaxCpus> cpus_;
  Reservoir wake_latencies_;
};

}  // namespace ktstr::guest
