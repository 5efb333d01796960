#include "guest/workload/work_context.h"

#include <sched.h>
#include <time.h>

#include <algorithm>

#include "guest/workload/futex.h"

namespace ktstr::guest {
namespace {

using std::chrono::nanoseconds;

std::uint32_t current_cpu() {
  const int cpu = ::sched_getcpu();
  return cpu < 0 ? 0 : std::min(static_cast<std::uint32_t>(cpu), CpuSet::kMaxCpus - 1);
}

nanoseconds thread_cpu_time() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
}

std::uint64_t count(nanoseconds time) {
  return static_cast<std::uint64_t>(std::max(time, nanoseconds(0)).count());
}

}  // namespace

WorkContext::WorkContext(WorkerSlot& slot, const std::atomic<std::int64_t>& stopped_at_ns,
                         MonotonicTime opened_at, Xorshift random)
    : slot_(slot),
      stopped_at_ns_(stopped_at_ns),
      opened_at_(opened_at),
      last_(opened_at),
      wake_latencies_(random) {
  checkpoint();
}

MonotonicTime WorkContext::stopped_at() const {
  return MonotonicTime(stopped_at_ns_.load(std::memory_order_relaxed));
}

void WorkContext::note_gap(MonotonicTime until, std::uint32_t cpu) {
  const MonotonicTime gap = until - last_;
  if (gap > max_gap_) {
    max_gap_ = gap;
    max_gap_at_ = last_ - opened_at_;
    max_gap_cpu_ = cpu;
  }
}

void WorkContext::checkpoint() {
  const MonotonicTime now = monotonic_now();
  const std::uint32_t cpu = current_cpu();
  note_gap(stopping() ? std::min(now, stopped_at()) : now, cpu);
  last_ = now;
  if (cpu_known_ && cpu == cpu_) return;
  if (cpu_known_) ++migrations_;
  cpu_known_ = true;
  cpu_ = cpu;
  cpus_.set(cpu);
}

void WorkContext::compute_block() {
  // A multiply-add chain (Knuth's MMIX constants): nothing to vectorise, no memory, no shared execution
  // resource but one multiplier. The empty asm keeps the compiler from finding a closed form.
  std::uint64_t x = state_;
  for (std::uint64_t i = 0; i < kBlock; ++i) {
    x = x * 6364136223846793005U + 1442695040888963407U;
    asm volatile("" : "+r"(x));
  }
  state_ = x;
  units_ += kBlock;
  checkpoint();
}

bool WorkContext::compute_for(nanoseconds cpu_time) {
  if (cpu_time.count() <= 0) return !stopping();
  // The thread's CPU clock costs a system call (0.35 to 1.4 us), the wall clock does not: so the CPU clock is
  // only asked when the wall clock says it may be time. Without preemption that is twice.
  const nanoseconds start = thread_cpu_time();
  nanoseconds left = cpu_time;
  while (left.count() > 0) {
    const MonotonicTime until = last_ + left;
    do {
      compute_block();
      if (stopping()) return false;
    } while (last_ < until);
    left = cpu_time - (thread_cpu_time() - start);
  }
  return true;
}

void WorkContext::yield() {
  ::sched_yield();
  checkpoint();
}

bool WorkContext::sleep(nanoseconds duration) {
  checkpoint();
  const MonotonicTime deadline = last_ + duration;
  MonotonicTime now = last_;
  while (!stopping() && now < deadline) {
    futex_wait_until(slot_.stop, 0, deadline);
    now = monotonic_now();
  }
  const bool stopped = stopping();
  const MonotonicTime end = stopped ? std::min(now, stopped_at()) : now;
  if (end >= deadline) wake_latencies_.add(count(end - deadline));
  last_ = std::min(deadline, end);
  if (stopped) return false;
  checkpoint();
  return true;
}

void WorkContext::end_iteration() {
  if (units_ == units_before_iteration_) ++units_;
  units_before_iteration_ = units_;
  ++iterations_;
  slot_.iterations.store(iterations_, std::memory_order_relaxed);
}

void WorkContext::finish(ktstr::v1::WorkerReport& report) {
  const MonotonicTime end = stopping() ? stopped_at() : monotonic_now();
  note_gap(end, cpu_);
  report.set_work_units(units_);
  report.set_wall_time_ns(count(end - opened_at_));
  report.set_migrations(migrations_);
  for (std::uint32_t cpu = 0; cpu < cpus_.size(); ++cpu) {
    if (cpus_.test(cpu)) report.add_cpus_used(cpu);
  }
  report.set_max_gap_ns(count(max_gap_));
  report.set_max_gap_cpu(max_gap_cpu_);
  report.set_max_gap_at_ns(count(max_gap_at_));
  report.mutable_wake_latencies_ns()->Add(wake_latencies_.samples().begin(), wake_latencies_.samples().end());
  report.set_wake_samples_total(wake_latencies_.total());
  report.set_iterations(iterations_);
}

}  // namespace ktstr::guest
