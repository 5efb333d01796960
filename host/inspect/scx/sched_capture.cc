#include "host/inspect/scx/sched_capture.h"

#include <fmt/format.h>

#include "host/inspect/walk/object_tree.h"

namespace ktstr {

void SchedCapture::walk() {
  if (in_.plan.sched.legacy) return legacy_sched();
  const auto root = in_.kernel.symbol("scx_root");
  if (!root) in_.absent("scx_root", in_.kernel.symbols().lacks("scx_root"));
  const Kva first = root ? in_.pointer(*root) : Kva();
  if (first.value() == 0 && in_.hints.sched.value() == 0) {
    if (root) in_.absent("schedulers", "scx_root is NULL: no scheduler is attached");
  }
  sched_tree(first);
  // Those that the tree does not lead to: being attached, or on their way out.
  const auto all = in_.kernel.symbol("scx_sched_all");
  if (!all && in_.plan.sched.all) in_.absent("scx_sched_all", in_.kernel.symbols().lacks("scx_sched_all"));
  if (all && in_.plan.sched.all) {
    const ListContents list = walk_list(in_.memory, in_.budget, *all, in_.limits.max_scheds);
    in_.note_break("scx_sched_all", list);
    for (const Kva node : list.nodes) add(node - in_.plan.sched.all->offset, Kva());
  }
  add(in_.hints.sched, Kva());
}

void SchedCapture::sched_tree(Kva root) {
  if (root.value() == 0 || !in_.plan.sched.children || !in_.plan.sched.sibling) return add(root, Kva());
  const ObjectTree tree = walk_object_tree(in_.memory, in_.budget, root,
                                           {in_.plan.sched.children->offset, in_.plan.sched.sibling->offset},
                                           in_.limits.max_scheds);
  for (const WalkBreak& broken : tree.breaks) {
    in_.flaw("scheduler tree, " + broken.path, broken.what());
    if (broken.kind == WalkBreak::Kind::kLimit)
      in_.incomplete(fmt::format("more than {} schedulers", in_.limits.max_scheds));
  }
  for (const TreeObject& one : tree.objects)
    add(one.object, one.depth == 0 ? Kva() : tree.objects[one.parent].object);
}

void SchedCapture::add(Kva sched, Kva parent) {
  if (sched.value() == 0 || !seen_.insert(sched)) return;
  if (in_.objects.scheds.size() >= in_.limits.max_scheds)
    return in_.incomplete(fmt::format("more than {} schedulers", in_.limits.max_scheds));
  if (!in_.plan.sched.layout.capture(in_.captured, in_.memory, sched, in_.budget))
    in_.flaw(fmt::format("scheduler {}", sched), "cannot be read whole");
  SchedObjects objects{sched, parent, {}, {}};
  objects.exit_info = capture_exit_info(in_.plan, in_.kernel, in_.memory, in_.captured, sched, in_.budget);
  const Kva pcpu = in_.pointer(sched, in_.plan.sched.pcpu);
  const Kva stats = in_.pointer(sched, in_.plan.sched.event_stats_cpu);
  for (std::uint32_t cpu = 0; cpu < in_.objects.nr_cpu_ids; ++cpu) {
    if (pcpu.value() != 0 || stats.value() != 0) sched_cpu(objects, cpu, pcpu, stats);
  }
  in_.objects.scheds.push_back(std::move(objects));
}

void SchedCapture::sched_cpu(SchedObjects& objects, std::uint32_t cpu, Kva pcpu, Kva stats) {
  const SchedCpuPlan& plan = in_.plan.sched_cpu;
  SchedCpuObjects one{cpu, {}, {}};
  if (const auto area = pcpu.value() != 0 ? in_.kernel.per_cpu_pointer(pcpu, cpu) : std::nullopt) {
    one.pcpu = *area;
    if (!plan.layout.capture(in_.captured, in_.memory, *area, in_.budget))
      in_.flaw(fmt::format("scheduler {}, CPU {}", objects.sched, cpu), "cannot be read whole");
    if (plan.event_stats) one.event_stats = *area + plan.event_stats->offset;
    if (plan.dispatch_context) dsqs_.keep_dispatch_buffer(*area + plan.dispatch_context->offset);
    dsqs_.add_member(*area, plan.bypass_dsq, ktstr::v1::Dsq::BYPASS, cpu, objects.sched);
  } else if (const auto counters =
                 stats.value() != 0 ? in_.kernel.per_cpu_pointer(stats, cpu) : std::nullopt) {
    one.event_stats = *counters;
  } else {
    return;
  }
  if (one.event_stats.value() != 0) in_.keep(one.event_stats, in_.plan.event_stats_size);
  objects.cpus.push_back(one);
}

// Before 6.16: one scheduler, in globals.
void SchedCapture::legacy_sched() {
  auto ops = in_.kernel.symbol("scx_ops");
  if (!ops)
    return in_.absent("schedulers",
                      "there is no struct scx_sched, and " + in_.kernel.symbols().lacks("scx_ops"));
  in_.plan.sched.layout.capture(in_.captured, in_.memory, *ops, in_.budget);
  SchedObjects objects{*ops, {}, {}, {}};
  objects.exit_info = capture_exit_info(in_.plan, in_.kernel, in_.memory, in_.captured, Kva(), in_.budget);
  for (std::uint32_t cpu = 0; cpu < in_.objects.nr_cpu_ids; ++cpu) {
    const auto stats = in_.kernel.per_cpu("event_stats_cpu", cpu);
    if (!stats || in_.plan.event_stats_size == 0) continue;
    in_.keep(*stats, in_.plan.event_stats_size);
    objects.cpus.push_back({cpu, {}, *stats});
  }
  if (objects.cpus.empty() && in_.plan.event_stats_size != 0)
    in_.absent("event counters", in_.kernel.symbols().lacks("event_stats_cpu"));
  in_.objects.scheds.push_back(std::move(objects));
}

void SchedCapture::add_those_of_tasks() {
  const auto class_at = in_.kernel.types()->place("task_struct", "sched_class");
  const auto sched_at = in_.kernel.types()->place("task_struct", "scx.sched");
  const auto ext = in_.kernel.symbol("ext_sched_class");
  if (!class_at || !sched_at || !ext) return;
  for (std::size_t i = 0; i < in_.objects.tasks.size(); ++i) {  // grows by what is on the queues
    const Kva task = in_.objects.tasks[i].task;
    if (in_.pointer(task + class_at->offset) != *ext) continue;
    const std::size_t before = in_.objects.scheds.size();
    add(in_.pointer(task + sched_at->offset), Kva());
    if (in_.objects.scheds.size() > before) dsqs_.walk_sched(in_.objects.scheds[before].sched);
  }
}

}  // namespace ktstr
