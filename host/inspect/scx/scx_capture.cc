#include "host/inspect/scx/scx_capture.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "host/inspect/scx/capture_context.h"
#include "host/inspect/scx/cpu_capture.h"
#include "host/inspect/scx/dsq_capture.h"
#include "host/inspect/scx/sched_capture.h"
#include "host/inspect/scx/task_capture.h"

namespace ktstr {
namespace {

// What is not an object of its own: variables, and the masks of idle CPUs.
class GlobalCapture {
 public:
  explicit GlobalCapture(CaptureContext& context) : in_(context) {}

  void variables() {
    for (const GlobalField& global : in_.plan.globals) {
      for (const GlobalField::Choice& choice : global.choices) {
        const auto at = in_.kernel.symbol(choice.symbol);
        if (!at) continue;
        in_.keep(*at, choice.size);
        break;
      }
    }
  }

  void idle_masks() {
    const auto* const found = std::find_if(kIdleMasks.begin(), kIdleMasks.end(), [&](std::string_view name) {
      return in_.kernel.symbol(name).has_value();
    });
    if (found != kIdleMasks.end())
      idle_mask_pair(*in_.kernel.symbol(*found));
    else
      in_.absent("idle masks", in_.kernel.symbols().lacks(fmt::format("{}", fmt::join(kIdleMasks, ", "))));
    const auto by_node = in_.kernel.symbol("scx_idle_node_masks");
    if (!by_node) in_.absent("idle masks of nodes", in_.kernel.symbols().lacks("scx_idle_node_masks"));
    if (!by_node) return;
    in_.keep(*by_node, 8);
    const Kva table = in_.pointer(*by_node);
    if (table.value() == 0) return;
    for (std::uint32_t node = 0; node < in_.nodes(); ++node) {
      in_.keep(table + 8 * node, 8);
      if (const Kva masks = in_.pointer(table + 8 * node); masks.value() != 0) idle_mask_pair(masks);
    }
  }

 private:
  void idle_mask_pair(Kva masks) {
    for (const std::uint64_t offset : {in_.plan.idle_cpu, in_.plan.idle_smt}) {
      if (!in_.plan.masks_are_pointers) {
        in_.keep(masks + offset, in_.plan.mask_bytes());
        continue;
      }
      in_.keep(masks + offset, 8);
      if (const Kva mask = in_.pointer(masks + offset); mask.value() != 0)
        in_.keep(mask, in_.plan.mask_bytes());
    }
  }

  CaptureContext& in_;
};

}  // namespace

ScxObjects capture_scx(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                       CapturedMemory& captured, const CaptureHints& hints, const CaptureLimits& limits) {
  CaptureContext in{plan, kernel, memory, captured, hints, limits, ReadBudget(limits.bytes, limits.reads),
                    {},   {}};
  ScxObjects& objects = in.objects;
  GlobalCapture globals(in);
  TaskCapture tasks(in);
  DsqCapture dsqs(in, tasks);
  SchedCapture scheds(in, dsqs);
  CpuCapture cpus(in, tasks, dsqs);
  objects.nr_cpu_ids =
      static_cast<std::uint32_t>(std::min<std::size_t>(kernel.per_cpu_offsets().size(), plan.max_cpus));
  globals.variables();
  globals.idle_masks();
  cpus.walk();
  scheds.walk();
  for (const SchedObjects& sched : objects.scheds) dsqs.walk_sched(sched.sched);
  if (plan.sched.legacy) dsqs.walk_legacy();
  tasks.walk_scx_tasks();
  tasks.walk_task_tree();
  if (in.names_functions_only()) {
    scheds.add_those_of_tasks();
    dsqs.add_those_of_tasks();
  }
  for (const TaskObjects& task : objects.tasks) tasks.keep_sleeping_stack(task.task);
  if (in.budget.exhausted()) in.incomplete("the budget of reads ran out");
  return std::move(objects);
}

Kva capture_exit_info(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                      CapturedMemory& captured, Kva sched, ReadBudget& budget) {
  std::optional<Kva> at;
  if (sched.value() != 0 && plan.sched.exit_info) at = sched + plan.sched.exit_info->offset;
  if (sched.value() == 0) at = kernel.symbol("scx_exit_info");
  if (!at) return Kva();
  const auto info = memory.read<Kva>(*at, budget);
  if (!info || info->value() == 0) return Kva();
  plan.exit_info.capture(captured, memory, *info, budget);
  const auto keep_text = [&](const std::optional<Place>& place, std::uint64_t size) {
    const auto target = place ? memory.read<Kva>(*info + place->offset, budget) : FaultOr<Kva>(Kva());
    if (target && target->value() != 0 && size > 0) [[maybe_unused]]
      const auto kept = captured.capture(memory, *target, size, budget);
  };
  if (plan.exit_bt_len) {
    const auto length = memory.read<std::uint32_t>(*info + plan.exit_bt_len->offset, budget);
    if (length) keep_text(plan.exit_bt, 8 * std::min<std::uint64_t>(*length, kMaxBacktrace));
  }
  if (plan.exit_dump) {
    const auto text = memory.read<Kva>(*info + plan.exit_dump->offset, budget);
    if (text && text->value() != 0) {
      if (const auto dump = memory.read_c_string(*text, StructLayout::kMaxDumpText, budget))
        keep_text(plan.exit_dump, dump->text.size() + (dump->terminated ? 1 : 0));
    }
  }
  return *info;
}

}  // namespace ktstr
