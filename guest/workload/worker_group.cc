#include "guest/workload/worker_group.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "common/scenario_check.h"
#include "guest/workload/futex.h"
#include "guest/workload/report_codec.h"
#include "guest/workload/worker.h"

namespace ktstr::guest {
namespace {

constexpr std::uint64_t kBellEvent = ~std::uint64_t{0};

// Blocks all signals while a process is forked, so that none of our handlers runs in the child.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

bool watch(int epoll, int fd, std::uint64_t tag) {
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.u64 = tag;
  return ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &interest) == 0;
}

std::size_t count_workers(const WorkerGroup::Options& options) {
  std::size_t workers = 0;
  for (const ktstr::v1::CgroupDef* cgroup : options.cgroups) {
    const std::size_t cpus = cgroup_cpus(*cgroup, options.cpus).size();
    for (const ktstr::v1::WorkSpec& work : cgroup->works()) workers += worker_count(work, cpus);
  }
  return workers;
}

}  // namespace

WorkerGroup::WorkerGroup(Options options, SharedArea area, Supervisor& supervisor)
    : options_(std::move(options)), area_(std::move(area)), supervisor_(supervisor) {
  workers_.reserve(area_.workers());
}

WorkerGroup::~WorkerGroup() {
  kill("the step was given up");
  reap();
  for (const Worker& worker : workers_) {
    if (!worker.exit) supervisor_.forget_child(worker.pid);
  }
}

Expected<std::unique_ptr<WorkerGroup>> WorkerGroup::spawn(Options options, CgroupOps& ops,
                                                          Supervisor& supervisor) {
  const std::size_t count = count_workers(options);
  if (count > kMaxWorkers) return fail(ErrorCode::kUsage, fmt::format("{} workers are too many", count));
  auto area = SharedArea::create(count);
  if (!area) return std::unexpected(std::move(area.error()));
  std::unique_ptr<WorkerGroup> group(new WorkerGroup(std::move(options), *std::move(area), supervisor));
  allow_descriptors(count);
  group->bell_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  group->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!group->bell_ || !group->epoll_ || !watch(group->epoll_.get(), group->bell_.get(), kBellEvent)) {
    return fail_errno(ErrorCode::kHost, "cannot make the workers' bell");
  }
  group->area_.header().expected.store(static_cast<std::uint32_t>(count));
  for (std::size_t cgroup = 0; cgroup < group->options_.cgroups.size(); ++cgroup) {
    if (auto spawned = group->spawn_cgroup(cgroup, ops); !spawned) {
      return propagate(std::move(spawned.error()), fmt::format("starting the workers of cgroup '{}'",
                                                               group->options_.cgroups[cgroup]->name()));
    }
  }
  return group;
}

Expected<> WorkerGroup::spawn_cgroup(std::size_t cgroup, CgroupOps& ops) {
  const ktstr::v1::CgroupDef& def = *options_.cgroups[cgroup];
  const std::size_t cpus = cgroup_cpus(def, options_.cpus).size();
  const UniqueFd directory = ops.open_directory(def.name());
  for (int work = 0; work < def.works_size(); ++work) {
    const std::uint32_t count = worker_count(def.works(work), cpus);
    for (std::uint32_t i = 0; i < count; ++i) {
      if (auto made = spawn_worker(cgroup, static_cast<std::uint32_t>(work), directory.get(), ops); !made)
        return made;
    }
  }
  return {};
}

Expected<> WorkerGroup::spawn_worker(std::size_t cgroup, std::uint32_t work_index, int cgroup_fd,
                                     CgroupOps& ops) {
  const ktstr::v1::CgroupDef& def = *options_.cgroups[cgroup];
  WorkerTask task;
  task.work = &def.works(static_cast<int>(work_index));
  task.work_index = work_index;
  task.worker = workers_.size();
  task.area = &area_;
  task.gate = options_.gate.get();
  task.seed = options_.seed;
  task.jitter_seed = options_.jitter_seed;
  task.bell = bell_.get();
  task.parent = ::getpid();

  auto forked = [&] {
    const SignalsBlocked blocked;
    auto process = fork_process(cgroup_fd);
    if (process && process->pid == 0) {
      task.wait_for_admission = !process->in_cgroup;
      run_worker(task);
    }
    return process;
  }();
  if (!forked) return std::unexpected(std::move(forked.error()));

  ::setpgid(forked->pid, forked->pid);
  supervisor_.adopt_child(forked->pid);
  const bool watched = watch(epoll_.get(), forked->pidfd.get(), workers_.size());
  const int watch_errno = errno;
  workers_.push_back({forked->pid, std::move(forked->pidfd), cgroup, work_index, std::nullopt, nullptr});
  if (!watched) {
    errno = watch_errno;
    return fail_errno(ErrorCode::kHost, "cannot watch a worker");
  }
  if (!forked->in_cgroup) {
    if (auto attached = ops.attach(def.name(), forked->pid); !attached) return attached;
    WorkerSlot& slot = area_.slot(task.worker);
    slot.admitted.store(1, std::memory_order_release);
    futex_wake_all(slot.admitted);
  }
  return {};
}

WorkerPhase WorkerGroup::phase(std::size_t worker) const {
  const std::uint32_t phase = area_.slot(worker).phase.load(std::memory_order_acquire);
  return phase > static_cast<std::uint32_t>(WorkerPhase::kReported) ? WorkerPhase::kStarting
                                                                    : WorkerPhase{phase};
}

bool WorkerGroup::all_arrived(WorkerPhase wanted) const {
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    if (!dead(i) && phase(i) < wanted) return false;
  }
  return true;
}

std::size_t WorkerGroup::not_ready() const {
  std::size_t count = 0;
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    if (dead(i) || phase(i) < WorkerPhase::kReady) ++count;
  }
  return count;
}

std::uint64_t WorkerGroup::iterations() const {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < workers_.size(); ++i)
    sum += area_.slot(i).iterations.load(std::memory_order_relaxed);
  return sum;
}

std::vector<pid_t> WorkerGroup::pids() const {
  std::vector<pid_t> pids;
  for (const Worker& worker : workers_) pids.push_back(worker.exit ? -1 : worker.pid);
  return pids;
}

MonotonicTime WorkerGroup::deadline(std::chrono::nanoseconds patience) const {
  return monotonic_now() + patience + options_.patience.each * static_cast<int>(workers_.size());
}

// The zombie still holds its pid, so its process group cannot be somebody else's yet: end what it left
// behind, then reap.
void WorkerGroup::note_death(std::size_t index) {
  Worker& worker = workers_[index];
  if (worker.exit || !worker.pidfd) return;
  ::kill(-worker.pid, SIGKILL);
  worker.exit = try_reap(worker.pidfd.get());
  if (!worker.exit) return;
  worker.pidfd.reset();  // leaves the epoll set with it
  supervisor_.forget_child(worker.pid);
}

void WorkerGroup::serve_events() {
  std::array<epoll_event, 64> events{};
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
    for (int i = 0; i < count; ++i) {
      const std::uint64_t tag = events[static_cast<std::size_t>(i)].data.u64;
      if (tag == kBellEvent) {
        std::uint64_t rings = 0;
        [[maybe_unused]] const ssize_t got = ::read(bell_.get(), &rings, sizeof rings);
      } else {
        note_death(static_cast<std::size_t>(tag));
      }
    }
    if (count < static_cast<int>(events.size())) return;
  }
}

// Workers count their arrivals and ring when the expected number is reached. Every death lowers that number;
// a ring that comes too early only makes us look once more.
void WorkerGroup::expect_arrivals() {
  std::uint32_t living = 0;
  for (std::size_t i = 0; i < workers_.size(); ++i) living += dead(i) ? 0U : 1U;
  area_.header().expected.store(living);
}

WorkerGroup::Waited WorkerGroup::wait_for(const std::function<bool()>& done, MonotonicTime deadline,
                                          bool ignore_end) {
  for (;;) {
    serve_events();
    expect_arrivals();
    if (done()) return Waited::kDone;
    switch (supervisor_.wait_until(deadline, epoll_.get(), ignore_end)) {
      case Supervisor::Wake::kReadable:
        break;
      case Supervisor::Wake::kDeadline:
        serve_events();
        return done() ? Waited::kDone : Waited::kDeadline;
      case Supervisor::Wake::kSchedulerGone:
        return Waited::kSchedulerGone;
      case Supervisor::Wake::kStopRequested:
        return Waited::kStopRequested;
    }
  }
}

WorkerGroup::Waited WorkerGroup::wait_ready() {
  return wait_for([this] { return all_arrived(WorkerPhase::kReady); }, deadline(options_.patience.ready),
                  false);
}

// Each worker has its own stop word: a sleeping one sleeps on it and is woken at once, and a thousand
// sleepers do not share one futex hash bucket, which would show in the wake latencies.
void WorkerGroup::stop() {
  area_.header().arrivals.store(0);
  expect_arrivals();
  area_.header().stopped_at_ns.store(monotonic_now().count(), std::memory_order_relaxed);
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    WorkerSlot& slot = area_.slot(i);
    slot.stop.store(1, std::memory_order_release);
    futex_wake_all(slot.stop);
  }
}

void WorkerGroup::kill(const char* because) {
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    Worker& worker = workers_[i];
    if (worker.exit) continue;
    if (phase(i) != WorkerPhase::kReported && worker.killed_because == nullptr)
      worker.killed_because = because;
    kill_process_group(worker.pid, worker.pidfd.get());
  }
}

void WorkerGroup::reap() {
  wait_for(
      [this] {
        return std::all_of(workers_.begin(), workers_.end(), [](const Worker& w) { return w.exit; });
      },
      deadline(options_.patience.death), true);
}

std::vector<ktstr::v1::CgroupResult> WorkerGroup::collect(How how, const char* because) {
  if (how == How::kAsk && options_.gate->is_open()) {
    const auto reported = [this] { return all_arrived(WorkerPhase::kReported); };
    const MonotonicTime until = deadline(options_.patience.report);
    stop();
    Waited waited = wait_for(reported, until, false);
    // The host wants an end: what the workers have done until now is still worth having.
    if (waited == Waited::kStopRequested) waited = wait_for(reported, until, true);
    scheduler_went_ = waited == Waited::kSchedulerGone;
    kill(scheduler_went_ ? "killed because the scheduler was gone" : "did not answer");
  } else {
    kill(because);
  }
  reap();

  std::vector<ktstr::v1::CgroupResult> results;
  for (const ktstr::v1::CgroupDef* def : options_.cgroups) {
    ktstr::v1::CgroupResult& result = results.emplace_back();
    result.set_cgroup(def->name());
    result.set_cpuset(cgroup_cpus(*def, options_.cpus).to_string());
  }
  for (std::size_t i = 0; i < workers_.size(); ++i) *results[workers_[i].cgroup].add_workers() = report(i);
  return results;
}

ktstr::v1::WorkerReport WorkerGroup::report(std::size_t index) const {
  const Worker& worker = workers_[index];
  auto sent = read_report(area_.slot(index), area_.report(index));
  if (sent) {
    // Not the worker's to say.
    sent->set_work_index(worker.work_index);
    sent->set_tid(worker.pid);
    return *std::move(sent);
  }
  ktstr::v1::WorkerReport sentinel;
  sentinel.set_tid(worker.pid);
  sentinel.set_work_index(worker.work_index);
  sentinel.set_completed(false);
  if (worker.killed_because != nullptr) {
    sentinel.set_exit_info(worker.killed_because);
  } else {
    sentinel.set_exit_info(worker.exit ? to_string(*worker.exit) : "did not answer");
  }
  if (phase(index) == WorkerPhase::kReported) {
    sentinel.set_exit_info(sentinel.exit_info() + "; left " + sent.error().message());
  }
  return sentinel;
}

}  // namespace ktstr::guest
