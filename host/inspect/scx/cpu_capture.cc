#include "host/inspect/scx/cpu_capture.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "host/inspect/reasons.h"

namespace ktstr {
namespace {

constexpr std::array<std::string_view, 3> kKickSyncs = {"scx_kick_syncs", "scx_kick_pseqs",
                                                        "scx_kick_cpus_pnt_seqs"};

}  // namespace

void CpuCapture::walk() {
  if (!in_.plan.rq.layout.known()) return;  // the layout says why
  if (in_.kernel.per_cpu_offsets().empty())
    return in_.absent("CPUs", "the kernel has not set up its per-CPU areas");
  for (std::uint32_t cpu = 0; cpu < in_.objects.nr_cpu_ids; ++cpu) {
    if (const auto rq = in_.kernel.per_cpu("runqueues", cpu)) one_cpu(cpu, *rq);
  }
  missing_variables();
}

void CpuCapture::missing_variables() {
  const SymbolTable& symbols = in_.kernel.symbols();
  const auto has = [&](std::string_view name) { return symbols.find(name).has_value(); };
  if (!has("runqueues")) in_.absent("CPUs", symbols.lacks("runqueues"));
  if (std::none_of(kKickSyncs.begin(), kKickSyncs.end(), has))
    in_.absent("Cpu.kick_syncs", symbols.lacks(fmt::format("{}", fmt::join(kKickSyncs, ", "))));
  if (!has("scx_locked_rq_state")) in_.absent("Cpu.scx_locked_rq", symbols.lacks("scx_locked_rq_state"));
  if (!has("direct_dispatch_task"))
    in_.absent("Cpu.direct_dispatch_task", symbols.lacks("direct_dispatch_task"));
  if (in_.plan.dispatch_buffer && !in_.plan.sched_cpu.dispatch_context && !has("scx_dsp_ctx")) {
    in_.absent("dispatch buffers", join_reasons(in_.plan.no_dispatch_context, symbols.lacks("scx_dsp_ctx")));
  }
}

void CpuCapture::one_cpu(std::uint32_t cpu, Kva rq) {
  const RqPlan& plan = in_.plan.rq;
  CpuObjects& objects = in_.objects.cpus.emplace_back();
  objects.cpu = cpu;
  objects.rq = rq;
  if (!plan.layout.capture(in_.captured, in_.memory, rq, in_.budget))
    in_.flaw(fmt::format("rq of CPU {}", cpu), "cannot be read");
  objects.curr = in_.pointer(rq, plan.curr);
  objects.donor = in_.pointer(rq, plan.donor);
  objects.idle = in_.pointer(rq, plan.idle);
  objects.sub_dispatch_prev = in_.pointer(rq, plan.sub_dispatch_prev);
  objects.rescue_curr = in_.pointer(rq, plan.rescue_curr);
  if (plan.runnable_list && in_.plan.task.runnable_node) runnable_list(objects);
  objects.deferred_locals = length(rq, plan.ddsp_deferred_locals);
  objects.deferred_reenq_locals = length(rq, plan.deferred_reenq_locals);
  objects.deferred_reenq_users = length(rq, plan.deferred_reenq_users);
  per_cpu_variables(objects);
  for (const Kva task : {objects.curr, objects.donor, objects.sub_dispatch_prev, objects.rescue_curr})
    tasks_.add(task, TaskSource::kCurrent);
  tasks_.add(objects.idle, TaskSource::kIdle);
  tasks_.keep_running_stack(objects);
  // Adding to `dsqs` and `tasks` leaves `objects` where it is.
  dsqs_.add_member(rq, plan.local_dsq, ktstr::v1::Dsq::LOCAL, cpu, Kva());
  dsqs_.add_member(rq, plan.bypass_dsq, ktstr::v1::Dsq::BYPASS, cpu, Kva());
  dsqs_.add_member(rq, plan.reject_dsq, ktstr::v1::Dsq::REJECT, cpu, Kva());
  dsqs_.add_member(rq, plan.rescue_dsq, ktstr::v1::Dsq::RESCUE, cpu, Kva());
}

void CpuCapture::runnable_list(CpuObjects& objects) {
  walk_list(in_.memory, in_.budget, objects.rq + in_.plan.rq.runnable_list->offset, in_.limits.max_tasks,
            in_.list);
  for (const Kva node : in_.list.nodes) {
    const Kva task = node - in_.plan.task.runnable_node->offset;
    objects.runnable.push_back(task);
    tasks_.add(task, TaskSource::kRunnableList);
  }
  if (in_.list.broken && in_.list.broken->kind != WalkBreak::Kind::kUninitialised)
    objects.runnable_broken = in_.list.broken->to_string();
}

std::optional<std::size_t> CpuCapture::length(Kva object, const std::optional<Place>& list) {
  if (!list) return std::nullopt;
  walk_list(in_.memory, in_.budget, object + list->offset, in_.limits.max_tasks, in_.list);
  return in_.list.nodes.size();
}

void CpuCapture::per_cpu_variables(CpuObjects& objects) {
  const std::uint32_t cpu = objects.cpu;
  for (const std::string_view name : kKickSyncs) {
    const auto array = per_cpu_array(name, cpu);
    if (!array) continue;
    objects.kick_syncs = *array + in_.plan.kick_syncs_offset;
    in_.keep(objects.kick_syncs, std::uint64_t{8} * in_.objects.nr_cpu_ids);
    break;
  }
  if (const auto at = in_.kernel.per_cpu("scx_locked_rq_state", cpu)) objects.locked_rq = in_.pointer(*at);
  if (const auto at = in_.kernel.per_cpu("direct_dispatch_task", cpu))
    objects.direct_dispatch_task = in_.pointer(*at);
  // To 7.0 a CPU has one dispatch buffer for all schedulers.
  if (const auto buffer = per_cpu_array("scx_dsp_ctx", cpu)) {
    objects.dispatch_buffer = *buffer;
    dsqs_.keep_dispatch_buffer(*buffer);
  }
}

bool CpuCapture::is_per_cpu(std::string_view name) const {
  const auto address = in_.kernel.symbols().find(name);
  const auto begin = in_.kernel.symbols().find("__per_cpu_start");
  const auto end = in_.kernel.symbols().find("__per_cpu_end");
  return address && begin && end && *address >= *begin && *address < *end;
}

// What a variable of this CPU points to: the variable may be per-CPU itself, or a plain one that holds the
// address of a per-CPU area.
std::optional<Kva> CpuCapture::per_cpu_array(std::string_view name, std::uint32_t cpu) {
  if (is_per_cpu(name)) {
    const auto at = in_.kernel.per_cpu(name, cpu);
    const Kva array = at ? in_.pointer(*at) : Kva();
    return array.value() != 0 ? std::optional(array) : std::nullopt;
  }
  const auto at = in_.kernel.symbol(name);
  const Kva area = at ? in_.pointer(*at) : Kva();
  return area.value() != 0 ? in_.kernel.per_cpu_pointer(area, cpu) : std::nullopt;
}

}  // namespace ktstr
