// CPUs and dispatch queues.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <fmt/format.h>

#include "host/inspect/scx/inspection.h"

namespace ktstr {
namespace {

class CpuSection {
 public:
  explicit CpuSection(Inspection& inspection) : in_(inspection) {}

  void one(const CpuObjects& objects) {
    const RqPlan& plan = in_.plan.rq;
    auto& cpu = *in_.dump.add_cpus();
    cpu.set_cpu(objects.cpu);
    cpu.set_address(objects.rq.value());
    const std::string path = fmt::format("rq of CPU {}", objects.cpu);
    const ObjectCopy copy = plan.layout.copy(in_.memory, objects.rq, path, in_.faults, in_.budget);
    plan.layout.fill(cpu, copy, path, in_.around());
    tasks(objects, cpu);
    if (objects.deferred_locals)
      cpu.set_ddsp_deferred_locals(static_cast<std::uint32_t>(*objects.deferred_locals));
    if (objects.deferred_reenq_locals)
      cpu.set_deferred_reenq_locals(static_cast<std::uint32_t>(*objects.deferred_reenq_locals));
    if (objects.deferred_reenq_users)
      cpu.set_deferred_reenq_users(static_cast<std::uint32_t>(*objects.deferred_reenq_users));
    if (objects.locked_rq) cpu.set_scx_locked_rq(objects.locked_rq->value());
    if (objects.direct_dispatch_task) cpu.set_direct_dispatch_task(objects.direct_dispatch_task->value());
    kick_syncs(objects, cpu);
    if (objects.dispatch_buffer.value() != 0)
      inspect_dispatch_buffer(in_, objects.dispatch_buffer, path, *cpu.mutable_dispatch_buffer());
    if (objects.cpu < in_.input.vcpus.size()) *cpu.mutable_vcpu() = in_.input.vcpus[objects.cpu];
    stack(objects, cpu);
  }

 private:
  void tasks(const CpuObjects& objects, ktstr::v1::Cpu& cpu) {
    if (objects.curr.value() != 0) in_.name_task(objects.curr, *cpu.mutable_curr());
    if (objects.donor.value() != 0 && objects.donor != objects.curr)
      in_.name_task(objects.donor, *cpu.mutable_donor());
    if (objects.sub_dispatch_prev.value() != 0)
      in_.name_task(objects.sub_dispatch_prev, *cpu.mutable_sub_dispatch_prev());
    if (objects.rescue_curr.value() != 0) in_.name_task(objects.rescue_curr, *cpu.mutable_rescue_curr());
    if (const auto* curr = in_.find_task(objects.curr)) cpu.set_curr_class(curr->sched_class());
    cpu.set_idle(objects.curr == objects.idle && objects.idle.value() != 0);
    for (const Kva task : objects.runnable) {
      const auto* message = in_.find_task(task);
      cpu.add_runnable_list(message == nullptr ? -1 : message->pid());
    }
    if (objects.runnable_broken) cpu.set_runnable_list_broken(*objects.runnable_broken);
  }

  void kick_syncs(const CpuObjects& objects, ktstr::v1::Cpu& cpu) {
    if (objects.kick_syncs.value() == 0) return;
    for (std::uint32_t other = 0; other < in_.objects.nr_cpu_ids; ++other) {
      const auto value =
          in_.memory.read<std::uint64_t>(objects.kick_syncs + std::uint64_t{8} * other, in_.budget);
      if (!value) return in_.fault(fmt::format("kick syncs of CPU {}", objects.cpu), value.error());
      cpu.add_kick_syncs(*value);
    }
  }

  // From the vCPU's registers, when it was in the kernel.
  void stack(const CpuObjects& objects, ktstr::v1::Cpu& cpu) {
    if (!cpu.has_vcpu() || cpu.vcpu().user_mode() || cpu.vcpu().rip() == 0) return;
    const Kva base = in_.plan.task.stack ? in_.pointer(objects.curr + in_.plan.task.stack->offset) : Kva();
    add_running_stack(in_, cpu.vcpu(), base, *cpu.mutable_stack());
  }

  Inspection& in_;
};

class DsqSection {
 public:
  explicit DsqSection(Inspection& inspection) : in_(inspection) {}

  void one(const DsqObjects& objects) {
    const DsqPlan& plan = in_.plan.dsq;
    auto& dsq = *in_.dump.add_dsqs();
    dsq.set_kind(objects.kind);
    dsq.set_address(objects.dsq.value());
    if (objects.index) dsq.set_index(*objects.index);
    dsq.set_sched(objects.sched.value());
    dsq.set_cursors(static_cast<std::uint32_t>(objects.cursors));
    dsq.set_priq_nodes(static_cast<std::uint32_t>(objects.priq_nodes));
    const std::string path = fmt::format("DSQ {}", objects.dsq);
    const ObjectCopy copy = plan.layout.copy(in_.memory, objects.dsq, path, in_.faults, in_.budget);
    plan.layout.fill(dsq, copy, path, in_.around());
    dsq.set_name(name_of_dsq(objects.kind, objects.index, dsq.id()));
    for (const Kva task : objects.tasks) entry(task, dsq);
    check(objects, dsq);
  }

 private:
  void entry(Kva task, ktstr::v1::Dsq& dsq) {
    auto& entry = *dsq.add_tasks();
    entry.set_position(static_cast<std::uint32_t>(dsq.tasks_size() - 1));
    entry.set_task(task.value());
    const auto* message = in_.find_task(task);
    if (message == nullptr) return;
    entry.set_pid(message->pid());
    entry.set_comm(message->comm());
    entry.set_waiting_ms(message->waiting_ms());
    entry.set_dsq_vtime(message->dsq_vtime());
    entry.set_slice(message->slice());
  }

  // kernel/sched/ext/ext.c: dispatch_enqueue(), task_unlink_from_dsq() keep all of these true under
  // dsq->lock.
  void check(const DsqObjects& objects, ktstr::v1::Dsq& dsq) {
    if (objects.broken) dsq.add_problems("list: " + *objects.broken);
    if (objects.priq_broken) dsq.add_problems("priq: " + *objects.priq_broken);
    const std::size_t walked = objects.tasks.size();
    if (dsq.has_nr() && dsq.nr() != walked)
      dsq.add_problems(
          fmt::format("nr is {}, but {} task{} linked", dsq.nr(), walked, walked == 1 ? " is" : "s are"));
    if (objects.priq_nodes != 0 && objects.priq_nodes != walked)
      dsq.add_problems(
          fmt::format("{} nodes in the vtime tree, but {} tasks on the list", objects.priq_nodes, walked));
    else if (objects.priq_order_differs)
      dsq.add_problems("the list's order is not that of the vtime tree");
    check_first_task(objects, dsq);
    for (const Kva task : objects.tasks) {
      const auto* message = in_.find_task(task);
      if (message == nullptr || !message->has_dsq() || message->dsq() == objects.dsq.value()) continue;
      dsq.add_problems(fmt::format("{}[{}] is linked here, but its dsq is {:#x}", message->comm(),
                                   message->pid(), message->dsq()));
    }
    if (!seen_.insert({dsq.sched(), dsq.id()}).second && objects.kind == ktstr::v1::Dsq::USER)
      dsq.add_problems("another user DSQ has the same id");
  }

  // Built-in queues may leave first_task NULL.
  void check_first_task(const DsqObjects& objects, ktstr::v1::Dsq& dsq) {
    if (!dsq.has_first_task() || objects.kind != ktstr::v1::Dsq::USER || objects.broken) return;
    const std::uint64_t first = objects.tasks.empty() ? 0 : objects.tasks.front().value();
    if (dsq.first_task() != first)
      dsq.add_problems(
          fmt::format("first_task is {:#x}, the first linked task {:#x}", dsq.first_task(), first));
  }

  struct Key {
    std::uint64_t sched, id;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const {
      return std::hash<std::uint64_t>()(key.sched * 31 + key.id);
    }
  };
  Inspection& in_;
  std::unordered_set<Key, KeyHash> seen_;
};

}  // namespace

void inspect_cpus(Inspection& inspection) {
  CpuSection section(inspection);
  for (const CpuObjects& cpu : inspection.objects.cpus) section.one(cpu);
}

void inspect_dsqs(Inspection& inspection) {
  DsqSection section(inspection);
  for (const DsqObjects& dsq : inspection.objects.dsqs) section.one(dsq);
}

}  // namespace ktstr
