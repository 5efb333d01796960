// The order in which a worker sets itself up, and why:
//   1. It dies with its parent (PR_SET_PDEATHSIG), from the first instruction on.
//   2. Its own process group, so that teardown reaches whatever it forks later.
//   3. No inherited signal handlers: PID 1's crash handler would otherwise report the worker's crash as PID
//   1's own.
//   4. No inherited descriptors but standard streams and the bell.
//   5. Affinity once it is in its cgroup, since a move to another cpuset changes it.
//   6. Policy and nice last: what the worker does before that must not be starved by what it is told to be.
//   7. Ready, gate. All that came before is outside of what is measured.
#include "guest/workload/worker.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "common/cpu_set.h"
#include "common/scenario_check.h"
#include "common/unique_fd.h"
#include "guest/workload/futex.h"
#include "guest/workload/jitter.h"
#include "guest/workload/report_codec.h"
#include "guest/workload/work_context.h"
#include "guest/workload/work_type.h"

namespace ktstr::guest {
namespace {

constexpr int kBellFd = 3;

void reset_signals() {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    ::sigaction(signal, &standard, nullptr);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void close_descriptors(int bell) {
  if (bell != kBellFd) ::dup3(bell, kBellFd, O_CLOEXEC);
  ::syscall(SYS_close_range, kBellFd + 1, ~0U, 0);
}

// "spin/12", cut so that the number survives the kernel's 15 characters.
void set_name(std::string_view type, std::size_t worker) {
  const std::string number = fmt::format("/{}", worker);
  ::prctl(PR_SET_NAME, fmt::format("{}{}", type.substr(0, 15 - number.size()), number).c_str());
}

std::string errno_text(std::string_view what) {
  return fmt::format("{}: {}", what, std::strerror(errno));
}

// Empty: done, or nothing to do.
std::string set_affinity(const std::string& text) {
  if (text.empty()) return {};
  const auto cpus = CpuSet::parse(text);
  if (!cpus) return cpus.error().message();
  std::array<unsigned long, CpuSet::kMaxCpus / (8 * sizeof(unsigned long))> mask{};
  for (const std::uint32_t cpu : cpus->cpus()) mask[cpu / 64] |= 1UL << (cpu % 64);
  if (::sched_setaffinity(0, sizeof mask, reinterpret_cast<const cpu_set_t*>(mask.data())) == 0) return {};
  return errno_text(fmt::format("cannot set affinity {}", text));
}

// PID 1 runs at SCHED_FIFO with reset-on-fork, so this is normally SCHED_OTHER already.
std::string set_normal_policy() {
  if (::sched_getscheduler(0) == SCHED_OTHER) return {};
  sched_param parameter{};
  if (::sched_setscheduler(0, SCHED_OTHER, &parameter) == 0) return {};
  return errno_text("cannot leave the parent's scheduling policy");
}

std::string set_nice(const ktstr::v1::WorkSpec& work) {
  if (!work.has_nice() || ::setpriority(PRIO_PROCESS, 0, work.nice()) == 0) return {};
  return errno_text(fmt::format("cannot set nice {}", work.nice()));
}

// /proc/thread-self/schedstat: CPU time, run queue wait (ns), times scheduled in. Kept open, so that reading
// it after the stop needs no path lookup. Zeros where the kernel has no CONFIG_SCHED_INFO or /proc is
// missing.
class SchedStat {
 public:
  struct Values {
    std::uint64_t run_delay_ns = 0;
    std::uint64_t run_count = 0;
  };
  SchedStat() : fd_(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)) {}

  Values read() const {
    char text[128];
    const ssize_t length = fd_ ? ::pread(fd_.get(), text, sizeof text, 0) : -1;
    std::array<std::uint64_t, 3> numbers{};
    const char* at = text;
    const char* const end = text + std::max<ssize_t>(length, 0);
    for (std::uint64_t& number : numbers) {
      const auto [next, error] = std::from_chars(at, end, number);
      if (error != std::errc()) return {};
      at = next == end ? end : next + 1;
    }
    return {numbers[1], numbers[2]};
  }

 private:
  UniqueFd fd_;
};

std::uint64_t thread_cpu_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

// Rings PID 1's bell when this was the arrival it waits for. PID 1 counts for itself; a bell too many does no
// harm.
void arrive(const SharedArea& area) {
  SharedArea::Header& header = area.header();
  const std::uint32_t arrival = header.arrivals.fetch_add(1) + 1;
  if (arrival < header.expected.load()) return;
  const std::uint64_t one = 1;
  while (::write(kBellFd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void add_error(ktstr::v1::WorkerReport& report, std::string error) {
  if (!error.empty()) report.add_setup_errors(std::move(error));
}

// Returns the process's exit code.
int work(const WorkerTask& task) {
  WorkerSlot& slot = task.area->slot(task.worker);
  auto type = make_work_type(*task.work);
  if (!type) return 1;

  ktstr::v1::WorkerReport report;
  report.set_tid(static_cast<std::int32_t>(::syscall(SYS_gettid)));
  report.set_work_index(task.work_index);
  set_name(work_type_name(*task.work), task.worker);
  // Normal tasks may sleep 50 us longer than asked; that would be in every wake latency.
  ::prctl(PR_SET_TIMERSLACK, 1UL);
  while (task.wait_for_admission && slot.admitted.load(std::memory_order_acquire) == 0)
    futex_wait(slot.admitted, 0);
  add_error(report, set_affinity(task.work->affinity()));
  const SchedStat sched_stat;
  add_error(report, set_normal_policy());
  add_error(report, set_nice(*task.work));
  const SchedStat::Values before = sched_stat.read();
  const std::uint64_t cpu_before = thread_cpu_ns();

  slot.phase.store(static_cast<std::uint32_t>(WorkerPhase::kReady), std::memory_order_release);
  arrive(*task.area);
  task.gate->wait();
  jitter_worker(task.jitter_seed, task.worker);

  WorkContext context(slot, task.area->header().stopped_at_ns, task.gate->opened_at(),
                      Xorshift(task.seed, task.worker));
  (*type)->run(context);
  report.set_cpu_time_ns(thread_cpu_ns() - cpu_before);
  const SchedStat::Values after = sched_stat.read();
  report.set_run_delay_ns(after.run_delay_ns - before.run_delay_ns);
  report.set_run_count(after.run_count - before.run_count);
  context.finish(report);
  report.set_completed(true);
  if (!commit_report(std::move(report), slot, task.area->report(task.worker))) return 1;
  arrive(*task.area);
  return 0;
}

}  // namespace

void run_worker(const WorkerTask& task) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != task.parent) ::_exit(1);
  ::setpgid(0, 0);
  reset_signals();
  close_descriptors(task.bell);
  int code = 1;
  try {
    code = work(task);
  } catch (...) {
    code = 1;
  }
  ::_exit(code);
}

}  // namespace ktstr::guest
