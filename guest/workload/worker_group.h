// WorkerGroup: the workers of one step, or of the backdrop.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "guest/cgroup/cgroup_ops.h"
#include "guest/scenario/supervisor.h"
#include "guest/workload/process.h"
#include "guest/workload/shared_area.h"
#include "proto/plan.pb.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// Forks workers, starts them at a gate, stops and collects them. The caller is single-threaded. No call
// blocks without a deadline, and every wait goes through the supervisor. One report comes back for every
// worker, whatever became of it.
class [[nodiscard]] WorkerGroup {
 public:
  // Patience, in guest time: a base and a share for each worker, since every worker needs its turn on a CPU.
  // Setting up a worker under tcg on a loaded host was seen to take 2 ms, and up to a queue round (650 ms)
  // behind spinning ones.
  struct Patience {
    std::chrono::nanoseconds ready = std::chrono::seconds(20);
    std::chrono::nanoseconds report = std::chrono::seconds(5);
    std::chrono::nanoseconds death = std::chrono::seconds(5);
    std::chrono::nanoseconds each = std::chrono::milliseconds(20);
  };

  struct Options {
    std::vector<const ktstr::v1::CgroupDef*> cgroups;  // already made; they must outlive the group
    std::uint32_t cpus = 1;                            // of the machine
    std::uint64_t seed = 0;
    std::uint64_t jitter_seed = 0;  // 0: none
    std::shared_ptr<Gate> gate;
    Patience patience;
  };

  // Why a wait ended.
  enum class Waited { kDone, kDeadline, kSchedulerGone, kStopRequested };

  // Starts setting up all workers of `options.cgroups`. Errors kHost (no memory, no processes), or what an
  // attach to a cgroup said; then no worker is left.
  static Expected<std::unique_ptr<WorkerGroup>> spawn(Options options, CgroupOps& ops,
                                                      Supervisor& supervisor);

  WorkerGroup(const WorkerGroup&) = delete;
  WorkerGroup& operator=(const WorkerGroup&) = delete;
  // Kills and reaps what is left, within Patience::death.
  ~WorkerGroup();

  std::size_t size() const { return workers_.size(); }
  // Waits until every worker is at the gate or dead.
  Waited wait_ready();
  // Workers that are not at the gate, dead ones included.
  std::size_t not_ready() const;
  // Sum of all iteration counters.
  std::uint64_t iterations() const;

  // Ends all workers and returns their reports, one CgroupResult for each cgroup, in order. Workers that gave
  // no report are represented by completed=false and exit_info. Call once.
  //   kAsk:  tells them to stop and gives them time to report; who does not answer is killed.
  //   kKill: SIGKILL first. For when the scheduler is gone, and CPU-bound workers would make everything slow.
  //   kAsk turns into
  //          this when the scheduler goes meanwhile, or when the gate was never opened.
  // `because` (a string literal) becomes the exit_info of workers that are killed unasked.
  enum class How { kAsk, kKill };
  std::vector<ktstr::v1::CgroupResult> collect(How how, const char* because);
  // SIGKILLs all workers that have not reported, and their process groups, without waiting. `because` as
  // above.
  void kill(const char* because);
  // The scheduler went while the reports were collected: sentinels say nothing about the workers.
  bool scheduler_went() const { return scheduler_went_; }

  // Worker processes, for tests; -1 for one that is reaped.
  std::vector<pid_t> pids() const;

 private:
  struct Worker {
    pid_t pid = -1;
    UniqueFd pidfd;
    std::size_t cgroup = 0;  // index into options_.cgroups
    std::uint32_t work_index = 0;
    std::optional<ExitStatus> exit;  // reaped
    const char* killed_because = nullptr;
  };

  WorkerGroup(Options options, SharedArea area, Supervisor& supervisor);
  Expected<> spawn_cgroup(std::size_t cgroup, CgroupOps& ops);
  Expected<> spawn_worker(std::size_t cgroup, std::uint32_t work_index, int cgroup_fd, CgroupOps& ops);
  WorkerPhase phase(std::size_t worker) const;
  bool dead(std::size_t worker) const { return workers_[worker].exit.has_value(); }
  void serve_events();
  void note_death(std::size_t worker);
  void expect_arrivals();
  Waited wait_for(const std::function<bool()>& done, MonotonicTime deadline, bool ignore_end);
  MonotonicTime deadline(std::chrono::nanoseconds patience) const;
  bool all_arrived(WorkerPhase phase) const;
  void stop();
  void reap();
  ktstr::v1::WorkerReport report(std::size_t worker) const;

  Options options_;
  SharedArea area_;
  Supervisor& supervisor_;
  UniqueFd bell_;   // eventfd
  UniqueFd epoll_;  // the bell and every living worker's pidfd
  std::vector<Worker> workers_;
  bool scheduler_went_ = false;
};

}  // namespace ktstr::guest
