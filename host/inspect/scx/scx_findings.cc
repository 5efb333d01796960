// Findings: what a person who reads the dump should look at first.
//
// Each is one sentence that names the tasks and CPUs, so that it can be checked against the sections below
// it. The first kind is the most telling of all: a CPU that is idle while a task that may run there waits.
// Either the scheduler does not conserve work, or it has lost the task.
#include <algorithm>
#include <map>
#include <vector>

#include <fmt/format.h>

#include "common/cpu_set.h"
#include "common/kick_masks.h"
#include "host/inspect/scx/inspection.h"

namespace ktstr {
namespace {

using ktstr::v1::Cpu;
using ktstr::v1::DumpFinding;
using ktstr::v1::Task;

constexpr std::size_t kNamed = 5;          // tasks that a sentence names
constexpr std::int64_t kBriefWaitMs = 10;  // shorter waits beside an idle CPU are everyday races
constexpr std::size_t kMaxPids = 1000;
// Of one kind. A guest that has more is broken all over, and the sections below show the rest.
constexpr std::size_t kMaxOfAKind = 200;

class Findings {
 public:
  explicit Findings(Inspection& inspection) : in_(inspection) {
    for (const Task& task : in_.dump.tasks()) {
      if (task.has_waiting_ms()) waiting_.push_back(&task);
    }
    std::sort(waiting_.begin(), waiting_.end(),
              [](const Task* a, const Task* b) { return a->waiting_ms() > b->waiting_ms(); });
  }

  void run() {
    idle_cpus();
    long_waits();
    in_transit();
    kick_waits();
    counts();
    queues();
    bypass();
    watchdog();
    lists();
  }

 private:
  bool full(const char* kind) const {
    const auto count = counts_.find(kind);
    return count != counts_.end() && count->second >= kMaxOfAKind;
  }

  DumpFinding& add(DumpFinding::Severity severity, const char* kind, std::string text) {
    if (full(kind)) {
      left_out_.Clear();
      return left_out_;
    }
    ++counts_[kind];
    auto& finding = *in_.dump.add_findings();
    finding.set_severity(severity);
    finding.set_kind(kind);
    finding.set_text(std::move(text));
    return finding;
  }

  static std::string where(const Task& task) {
    if (!task.dsq_name().empty()) return "on " + task.dsq_name();
    if (task.where() == Task::OWNED_BY_BPF) return "owned by the BPF scheduler";
    if (task.where() == Task::IN_TRANSIT) return "in transit (" + task.ops_state_name() + ")";
    return "on no DSQ";
  }

  // "a[12] 5230 ms on user DSQ 0x7, b[13] ... and 4 more"
  static std::string name_tasks(const std::vector<const Task*>& tasks, DumpFinding& finding) {
    std::string text;
    for (std::size_t i = 0; i < tasks.size() && i < kMaxPids; ++i) {
      finding.add_pids(tasks[i]->pid());
      if (i >= kNamed) continue;
      text += fmt::format("{}{}[{}]", i == 0 ? "" : ", ", tasks[i]->comm(), tasks[i]->pid());
      if (tasks[i]->has_waiting_ms())
        text += fmt::format(" {} ms {}", tasks[i]->waiting_ms(), where(*tasks[i]));
    }
    if (tasks.size() > kNamed) text += fmt::format(" and {} more", tasks.size() - kNamed);
    return text;
  }

  static bool may_run_on(const Task& task, const CpuSet& allowed, std::uint32_t cpu) {
    if (task.migration_disabled() != 0 && task.has_cpu()) return task.cpu() == cpu;
    return allowed.contains(cpu);
  }

  void idle_cpus() {
    std::vector<CpuSet> allowed;
    for (const Task* task : waiting_) {
      auto set = CpuSet::parse(task->cpus_mask());
      allowed.push_back(set ? std::move(*set) : CpuSet());
    }
    for (const Cpu& cpu : in_.dump.cpus()) {
      if (full("idle-while-waiting")) return;
      if (!cpu.idle() || (cpu.has_online() && cpu.online() == 0)) continue;
      std::vector<const Task*> could;
      for (std::size_t i = 0; i < waiting_.size(); ++i) {
        if (may_run_on(*waiting_[i], allowed[i], cpu.cpu())) could.push_back(waiting_[i]);
      }
      if (could.empty()) continue;
      const bool brief = could.front()->waiting_ms() < kBriefWaitMs;
      auto& finding = add(brief ? DumpFinding::NOTE : DumpFinding::ERROR, "idle-while-waiting", "");
      finding.add_cpus(cpu.cpu());
      const std::string names = name_tasks(could, finding);
      finding.set_text(fmt::format("CPU {} is idle while {} that may run there wait{}: {}", cpu.cpu(),
                                   tasks_text(could.size()), could.size() == 1 ? "s" : "", names));
    }
  }

  static std::string tasks_text(std::size_t count) {
    return fmt::format("{} task{}", count, count == 1 ? "" : "s");
  }

  // The smallest of the schedulers' limits, ms; 0: not known.
  std::int64_t watchdog_ms() const {
    std::int64_t least = 0;
    for (const auto& sched : in_.dump.scheds()) {
      const std::int64_t limit = in_.ms(static_cast<std::int64_t>(sched.watchdog_timeout()));
      if (limit > 0 && (least == 0 || limit < least)) least = limit;
    }
    return least;
  }

  void long_waits() {
    const std::int64_t limit = watchdog_ms();
    if (limit == 0) return;
    std::int64_t above = INT64_MAX;
    for (const int percent : {100, 50, 25}) {
      const std::int64_t least = limit * percent / 100;
      std::vector<const Task*> tasks;
      for (const Task* task : waiting_) {
        if (task->waiting_ms() > least && task->waiting_ms() <= above) tasks.push_back(task);
      }
      above = least;
      if (tasks.empty()) continue;
      auto& finding = add(percent == 100 ? DumpFinding::ERROR : DumpFinding::WARNING, "waiting", "");
      const std::string names = name_tasks(tasks, finding);
      finding.set_text(fmt::format("{} ha{} waited longer than {} % of the watchdog's limit of {} ms: {}",
                                   tasks_text(tasks.size()), tasks.size() == 1 ? "s" : "ve", percent, limit,
                                   names));
    }
  }

  void in_transit() {
    std::vector<const Task*> stuck, passing;
    for (const Task& task : in_.dump.tasks()) {
      if (task.where() != Task::IN_TRANSIT) continue;
      (task.has_waiting_ms() && task.waiting_ms() >= kBriefWaitMs ? stuck : passing).push_back(&task);
    }
    between_owners(stuck, DumpFinding::WARNING);
    between_owners(passing, DumpFinding::NOTE);
  }

  // A task passes from one owner to the next in microseconds, with the run queue locked.
  void between_owners(std::vector<const Task*>& tasks, DumpFinding::Severity severity) {
    if (tasks.empty()) return;
    std::stable_sort(tasks.begin(), tasks.end(),
                     [](const Task* a, const Task* b) { return a->waiting_ms() > b->waiting_ms(); });
    auto& finding = add(severity, "in-transit", "");
    const std::string names = name_tasks(tasks, finding);
    finding.set_text(
        fmt::format("{} {}between two owners (QUEUEING, DISPATCHING or moving to another CPU): {}",
                    tasks.size() == 1 ? "1 task is" : tasks_text(tasks.size()) + " are",
                    severity == DumpFinding::WARNING ? "stuck " : "", names));
  }

  std::uint64_t sync_of(const Cpu& cpu) const {
    return cpu.has_kick_sync() ? cpu.kick_sync() : cpu.pnt_seq();
  }

  // The CPUs that one waits for, on behalf of any scheduler.
  CpuSet waited_for(const Cpu& cpu) const {
    CpuSet all;
    const auto add = [&](const std::string& mask) {
      if (mask.empty()) return;
      const auto set = CpuSet::parse(mask);
      if (!set) return;
      for (const std::uint32_t one : set->cpus()) all.insert(one);
    };
    add(kick_mask(cpu, nullptr, KickMask::kWait));
    if (cpu.has_cpus_to_wait()) return all;
    for (const auto& sched : in_.dump.scheds()) add(kick_mask(cpu, &sched, KickMask::kWait));
    return all;
  }

  // kick_cpus_irq_workfn(): a CPU that kicked others with SCX_KICK_WAIT waits until each one's number moves
  // on.
  void kick_waits() {
    for (const Cpu& cpu : in_.dump.cpus()) {
      if (full("kick-wait")) return;
      const CpuSet targets = waited_for(cpu);
      if (targets.empty()) continue;
      for (const Cpu& other : in_.dump.cpus()) {
        if (!targets.contains(other.cpu())) continue;
        const int index = static_cast<int>(other.cpu());
        const bool moved = index < cpu.kick_syncs_size() && cpu.kick_syncs(index) != sync_of(other);
        if (moved) continue;
        auto& finding =
            add(DumpFinding::WARNING, "kick-wait",
                fmt::format("CPU {} waits for CPU {} to reschedule (SCX_KICK_WAIT), which runs {}[{}]",
                            cpu.cpu(), other.cpu(), other.curr().comm(), other.curr().pid()));
        finding.add_cpus(cpu.cpu());
        finding.add_cpus(other.cpu());
      }
    }
  }

  // enqueue_task_scx() counts what it puts on the runnable list; the current task is off the list and
  // counted.
  void counts() {
    for (const Cpu& cpu : in_.dump.cpus()) {
      if (!cpu.has_nr_running() || !cpu.runnable_list_broken().empty()) continue;
      const auto listed = static_cast<std::uint32_t>(cpu.runnable_list_size());
      const std::uint32_t running = cpu.curr_class() == "ext_sched_class" ? 1 : 0;
      if (cpu.nr_running() == listed || cpu.nr_running() == listed + running) continue;
      add(DumpFinding::WARNING, "count-mismatch",
          fmt::format("CPU {}: scx.nr_running is {}, but {} on the runnable list{}", cpu.cpu(),
                      cpu.nr_running(), listed == 1 ? "1 task is" : fmt::format("{} tasks are", listed),
                      running == 1 ? " and one runs" : ""))
          .add_cpus(cpu.cpu());
    }
  }

  void queues() {
    for (const auto& dsq : in_.dump.dsqs()) {
      for (const std::string& problem : dsq.problems())
        add(DumpFinding::WARNING, "dsq", dsq.name() + ": " + problem);
    }
    for (const Cpu& cpu : in_.dump.cpus()) {
      if (!cpu.runnable_list_broken().empty())
        add(DumpFinding::WARNING, "list",
            fmt::format("runnable_list of CPU {}: {}", cpu.cpu(), cpu.runnable_list_broken()));
    }
  }

  void bypass() {
    for (const auto& sched : in_.dump.scheds()) {
      const int depth =
          sched.has_bypass_depth() ? sched.bypass_depth() : in_.dump.globals().scx_bypass_depth();
      if (depth > 0)
        add(DumpFinding::NOTE, "bypass",
            fmt::format("{} is bypassed (depth {}): the kernel schedules in its place", sched.name(), depth));
    }
  }

  void watchdog() {
    const std::int64_t limit = watchdog_ms();
    const auto& globals = in_.dump.globals();
    if (limit == 0 || !globals.has_watchdog_ran_ms_ago()) return;
    if (static_cast<std::int64_t>(globals.watchdog_ran_ms_ago()) > limit)
      add(DumpFinding::WARNING, "watchdog",
          fmt::format("the watchdog last ran {} ms ago, its limit is {} ms: tasks may wait unseen",
                      globals.watchdog_ran_ms_ago(), limit));
  }

  // Neither list has all tasks: scx_tasks holds the idle tasks but no zombies (from 6.19), the tree the
  // reverse.
  void lists() {
    if (!in_.objects.scx_tasks_walked || !in_.objects.task_tree_walked) return;
    std::vector<const Task*> only_scx;
    std::vector<const Task*> only_tree;
    for (std::size_t i = 0;
         i < in_.objects.tasks.size() && i < static_cast<std::size_t>(in_.dump.tasks_size()); ++i) {
      const bool scx = in_.objects.tasks[i].has(TaskSource::kScxTasks);
      const bool tree = in_.objects.tasks[i].has(TaskSource::kTaskTree);
      // Idle tasks are where they are by design: on scx_tasks, but for the boot CPU's, which is in the tree.
      if (in_.objects.tasks[i].has(TaskSource::kIdle)) continue;
      const Task* task = &in_.dump.tasks(static_cast<int>(i));
      if (scx && !tree) only_scx.push_back(task);
      if (tree && !scx) only_tree.push_back(task);
      if (!scx && !tree) {
        auto& finding = add(DumpFinding::WARNING, "task-lists", "");
        finding.set_text(
            fmt::format("{} is on neither scx_tasks nor the task tree", name_tasks({task}, finding)));
      }
    }
    lacking("scx_tasks", "the task tree", only_scx);
    lacking("the task tree", "scx_tasks", only_tree);
  }

  void lacking(const char* on, const char* lacks, const std::vector<const Task*>& tasks) {
    if (tasks.empty()) return;
    auto& finding = add(DumpFinding::NOTE, "task-lists", "");
    const std::string names = name_tasks(tasks, finding);
    finding.set_text(fmt::format("{} on {} but not on {}: {}",
                                 tasks.size() == 1 ? "1 task is" : tasks_text(tasks.size()) + " are", on,
                                 lacks, names));
  }

  Inspection& in_;
  std::vector<const Task*> waiting_;                        // longest first
  std::map<std::string, std::size_t, std::less<>> counts_;  // of findings, by kind
  DumpFinding left_out_;
};

}  // namespace

void find_problems(Inspection& inspection) {
  Findings(inspection).run();
}

}  // namespace ktstr
