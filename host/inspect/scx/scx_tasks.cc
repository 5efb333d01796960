// Tasks: what each one is doing, as sched_ext sees it.
#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>

#include <fmt/format.h>

#include "host/inspect/scx/inspection.h"

namespace ktstr {
namespace {

using ktstr::v1::Task;

// include/linux/sched.h
constexpr std::uint32_t kTaskReport = 0x7f;  // TASK_REPORT
constexpr std::uint32_t kTaskIdle = 0x402;   // TASK_IDLE: TASK_UNINTERRUPTIBLE | TASK_NOLOAD
constexpr std::uint32_t kTaskRtLockWait = 0x1000;
constexpr std::uint32_t kTaskDead = 0x80;
constexpr std::uint32_t kPfExiting = 0x4;  // PF_EXITING
constexpr std::uint64_t kMaxCgroupDepth = 64;

// As ps shows it (include/linux/sched.h, task_state_to_char()).
char state_char(std::uint32_t state, std::uint32_t exit_state) {
  constexpr std::string_view kChars = "RSDTtXZPI";
  if ((state & kTaskIdle) == kTaskIdle) return 'I';
  if ((state & kTaskRtLockWait) != 0) return 'D';
  const std::uint32_t shown = (state | exit_state) & kTaskReport;
  return kChars[static_cast<std::size_t>(std::bit_width(shown))];
}

// "/a/b", from the kernfs nodes; the root has no parent.
std::string cgroup_path(Inspection& inspection, Kva css_set) {
  const CgroupPlan& plan = inspection.plan.cgroup;
  if (css_set.value() == 0 || !plan.dfl_cgrp || !plan.kn || !plan.name || !plan.parent) return {};
  const Kva cgroup = inspection.pointer(css_set + plan.dfl_cgrp->offset);
  Kva node = cgroup.value() == 0 ? Kva() : inspection.pointer(cgroup + plan.kn->offset);
  std::string path;
  for (std::uint64_t depth = 0; node.value() != 0 && depth < kMaxCgroupDepth; ++depth) {
    const Kva parent = inspection.pointer(node + plan.parent->offset);
    if (parent.value() == 0) return path.empty() ? "/" : path;
    const auto name =
        inspection.memory.read_c_string(inspection.pointer(node + plan.name->offset), 256, inspection.budget);
    path = "/" + (name ? name->text : std::string("?")) + path;
    node = parent;
  }
  return path;
}

class TaskSection {
 public:
  explicit TaskSection(Inspection& inspection) : in_(inspection) {
    for (const CpuObjects& cpu : in_.objects.cpus) {
      running_.try_emplace(cpu.curr, cpu.cpu);
      for (const Kva task : cpu.runnable) runnable_.try_emplace(task, cpu.cpu);
    }
    for (std::size_t i = 0; i < in_.objects.dsqs.size(); ++i) {
      for (const Kva task : in_.objects.dsqs[i].tasks) queued_.try_emplace(task, i);
    }
  }

  void run() {
    in_.dump.mutable_tasks()->Reserve(static_cast<int>(in_.objects.tasks.size()));
    for (const TaskObjects& task : in_.objects.tasks) one(task);
  }

 private:
  void one(const TaskObjects& objects) {
    const TaskPlan& plan = in_.plan.task;
    Task& task = *in_.dump.add_tasks();
    task.set_address(objects.task.value());
    const std::string path = fmt::format("task {}", objects.task);
    const ObjectCopy copy = plan.layout.copy(in_.memory, objects.task, path, in_.faults, in_.budget);
    plan.layout.fill(task, copy, path, in_.around());
    states(task);
    place(task, objects);
    sources(task, objects);
    if (plan.cgroups) {
      if (const auto css_set = copy.number(*plan.cgroups)) task.set_cgroup(cgroup_of(Kva(*css_set)));
    }
    stack(task, copy);
  }

  void states(Task& task) {
    const ScxConstants& constants = in_.plan.constants;
    task.set_state_char(std::string(1, state_char(task.__state(), task.exit_state())));
    if (task.has_ops_state()) {
      task.set_ops_state_name(constant_name(constants.opss, task.ops_state() & constants.opss_mask));
      task.set_ops_state_qseq(task.ops_state() >> constants.opss_shift);
    }
    if (task.has_flags()) {
      task.set_scx_state(
          static_cast<std::uint32_t>((task.flags() & constants.state_mask) >> constants.state_shift));
      task.set_scx_state_name(constant_name(constants.states, task.scx_state()));
    }
  }

  Task::Where where_of(const Task& task, const TaskObjects& objects) const {
    const std::uint64_t opss = task.ops_state() & in_.plan.constants.opss_mask;
    const bool transit = task.ops_state_name() == "QUEUEING" || task.ops_state_name() == "DISPATCHING" ||
                         (task.has_holding_cpu() && task.holding_cpu() >= 0);
    const bool dead = (task.task_flags() & kPfExiting) != 0 || (task.__state() & kTaskDead) != 0;
    if (running_.contains(objects.task)) return Task::RUNNING;
    if (task.exit_state() != 0 || dead) return Task::EXITING;
    if (objects.has(TaskSource::kIdle)) return Task::SLEEPING;  // its CPU has work
    if (queued_.contains(objects.task) || task.dsq() != 0) return Task::ON_DSQ;
    if (transit) return Task::IN_TRANSIT;
    if (opss != 0) return Task::OWNED_BY_BPF;
    if (task.on_rq() == 0) return Task::SLEEPING;
    return task.sched_class() == "ext_sched_class" ? Task::IN_TRANSIT : Task::RUNNABLE_OTHER_CLASS;
  }

  void place(Task& task, const TaskObjects& objects) {
    const auto queued = queued_.find(objects.task);
    if (queued != queued_.end()) on_dsq(task, queued->second);
    task.set_where(where_of(task, objects));
    const bool running = task.where() == Task::RUNNING;
    // runnable_at is set when a task enters the runnable list, which the watchdog looks through.
    if (runnable_.contains(objects.task) && !running && task.has_runnable_at() && in_.input.hz != 0) {
      task.set_waiting_ms(in_.ms(static_cast<std::int64_t>(in_.jiffies - task.runnable_at())));
    }
  }

  void on_dsq(Task& task, std::size_t index) {
    const DsqObjects& dsq = in_.objects.dsqs[index];
    task.set_dsq_name(dsq_name(dsq));
    if (const auto id = dsq_id(dsq.dsq)) task.set_dsq_id(*id);
  }

  std::optional<std::uint64_t> dsq_id(Kva dsq) {
    if (!in_.plan.dsq.id) return std::nullopt;
    const auto id = in_.memory.read<std::uint64_t>(dsq + in_.plan.dsq.id->offset, in_.budget);
    return id ? std::optional(*id) : std::nullopt;
  }

  std::string dsq_name(const DsqObjects& dsq) {
    return name_of_dsq(dsq.kind, dsq.index, dsq_id(dsq.dsq).value_or(0));
  }

  void sources(Task& task, const TaskObjects& objects) {
    if (objects.has(TaskSource::kScxTasks)) task.add_found_on("scx_tasks");
    if (objects.has(TaskSource::kTaskTree)) task.add_found_on("task tree");
    if (const auto cpu = runnable_.find(objects.task); cpu != runnable_.end())
      task.add_found_on(fmt::format("runnable_list of CPU {}", cpu->second));
    if (const auto dsq = queued_.find(objects.task); dsq != queued_.end()) task.add_found_on(task.dsq_name());
    if (const auto cpu = running_.find(objects.task); cpu != running_.end())
      task.add_found_on(fmt::format("curr of CPU {}", cpu->second));
    if (objects.has(TaskSource::kIdle)) task.add_found_on("idle task of a CPU");
    if (objects.has(TaskSource::kDispatchBuffer)) task.add_found_on("a dispatch buffer");
  }

  const std::string& cgroup_of(Kva css_set) {
    const auto [known, fresh] = cgroups_.try_emplace(css_set);
    if (fresh) known->second = cgroup_path(in_, css_set);
    return known->second;
  }

  void stack(Task& task, const ObjectCopy& copy) {
    const TaskPlan& plan = in_.plan.task;
    if (!plan.stack || !plan.thread_sp || task.where() == Task::RUNNING) return;  // those are with their CPUs
    const auto base = copy.number(*plan.stack);
    const auto sp = copy.number(*plan.thread_sp);
    if (!base || !sp || *base == 0) return;
    add_sleeping_stack(in_, Kva(*sp), Kva(*base), *task.mutable_stack());
  }

  Inspection& in_;
  std::unordered_map<Kva, std::uint32_t> running_, runnable_;  // to the CPU
  std::unordered_map<Kva, std::size_t> queued_;                // to the DSQ
  std::unordered_map<Kva, std::string> cgroups_;
};

}  // namespace

std::string name_of_dsq(ktstr::v1::Dsq::Kind kind, std::optional<std::uint32_t> index, std::uint64_t id) {
  using ktstr::v1::Dsq;
  const std::uint32_t number = index.value_or(0);
  switch (kind) {
    case Dsq::LOCAL:
      return fmt::format("local DSQ of CPU {}", number);
    case Dsq::BYPASS:
      return fmt::format("bypass DSQ of CPU {}", number);
    case Dsq::REJECT:
      return fmt::format("reject DSQ of CPU {}", number);
    case Dsq::RESCUE:
      return fmt::format("rescue DSQ of CPU {}", number);
    case Dsq::GLOBAL:
      return fmt::format("global DSQ of node {}", number);
    default:
      return fmt::format("user DSQ {:#x}", id);
  }
}

void inspect_tasks(Inspection& inspection) {
  if (inspection.plan.task.layout.known()) TaskSection(inspection).run();
}

void inspect_task_groups(Inspection& inspection) {
  std::unordered_map<std::uint64_t, const std::string*> paths;
  for (const Task& task : inspection.dump.tasks()) paths.try_emplace(task.sched_task_group(), &task.cgroup());
  const StructLayout& layout = inspection.plan.task_group;
  for (const Kva group : inspection.objects.task_groups) {
    auto& message = *inspection.dump.add_task_groups();
    message.set_address(group.value());
    const std::string path = fmt::format("task group {}", group);
    layout.fill(message, layout.copy(inspection.memory, group, path, inspection.faults, inspection.budget),
                path, inspection.around());
    if (const auto known = paths.find(group.value()); known != paths.end())
      message.set_cgroup(*known->second);
  }
}

}  // namespace ktstr
