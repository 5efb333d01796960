#include "host/inspect/scx/dsq_capture.h"

#include <algorithm>

#include <fmt/format.h>

#include "host/inspect/walk/kva_set.h"
#include "host/inspect/walk/rb_tree.h"
#include "host/inspect/walk/rhashtable.h"

namespace ktstr {

void DsqCapture::walk_sched(Kva sched) {
  if (const Kva table = in_.pointer(sched, in_.plan.sched.pnode);
      table.value() != 0 && in_.plan.pnode_global_dsq)
    global_dsqs(table, in_.plan.pnode_global_dsq->offset, sched);
  if (const Kva table = in_.pointer(sched, in_.plan.sched.global_dsqs); table.value() != 0)
    global_dsqs(table, 0, sched);
  if (in_.plan.sched.dsq_hash) user_dsqs(sched + in_.plan.sched.dsq_hash->offset, sched);
}

void DsqCapture::walk_legacy() {
  if (const auto globals = in_.kernel.symbol("global_dsqs")) {
    if (const Kva table = in_.pointer(*globals); table.value() != 0) global_dsqs(table, 0, Kva());
  } else {
    in_.absent("global DSQs", in_.kernel.symbols().lacks("global_dsqs"));
  }
  if (const auto table = in_.kernel.symbol("dsq_hash"))
    user_dsqs(*table, Kva());
  else
    in_.absent("user DSQs", in_.kernel.symbols().lacks("dsq_hash"));
}

void DsqCapture::global_dsqs(Kva table, std::uint64_t offset, Kva sched) {
  const std::uint32_t count = in_.nodes();
  for (std::uint32_t node = 0; node < count; ++node) {
    const Kva entry = in_.pointer(table + 8 * node);
    if (entry.value() != 0) add(entry + offset, ktstr::v1::Dsq::GLOBAL, node, sched);
  }
}

void DsqCapture::user_dsqs(Kva table, Kva sched) {
  if (!in_.plan.dsq_table || !in_.plan.dsq.hash_node)
    return in_.absent("user DSQs", "struct rhashtable is not as it was");
  const RhashtableContents contents =
      walk_rhashtable(in_.memory, in_.budget, table, *in_.plan.dsq_table, {.nodes = in_.limits.max_dsqs});
  for (const WalkBreak& broken : contents.breaks.kept) {
    // A table that was never made is no damage: no scheduler has been attached yet.
    if (broken.kind == WalkBreak::Kind::kUninitialised) continue;
    in_.flaw("dsq_hash." + broken.path, broken.what());
    if (broken.kind == WalkBreak::Kind::kLimit)
      in_.incomplete(fmt::format("more than {} dispatch queues", in_.limits.max_dsqs));
  }
  for (const Kva node : contents.nodes)
    add(node - in_.plan.dsq.hash_node->offset, ktstr::v1::Dsq::USER, std::nullopt, sched);
}

void DsqCapture::add_member(Kva object, const std::optional<Place>& place, ktstr::v1::Dsq::Kind kind,
                            std::uint32_t index, Kva sched) {
  if (place) add(object + place->offset, kind, index, sched);
}

void DsqCapture::add(Kva dsq, ktstr::v1::Dsq::Kind kind, std::optional<std::uint32_t> index, Kva sched) {
  if (!in_.plan.dsq.layout.known() || !in_.plan.dsq.list) return;
  if (in_.objects.dsqs.size() >= in_.limits.max_dsqs)
    return in_.incomplete(fmt::format("more than {} dispatch queues", in_.limits.max_dsqs));
  DsqObjects objects;
  objects.dsq = dsq;
  objects.kind = kind;
  objects.index = index;
  objects.sched = sched;
  if (!in_.plan.dsq.layout.capture(in_.captured, in_.memory, dsq, in_.budget)) {
    objects.broken = "the queue cannot be read";
    in_.objects.dsqs.push_back(std::move(objects));
    return;
  }
  walk_list(in_.memory, in_.budget, dsq + in_.plan.dsq.list->offset, in_.limits.max_tasks, in_.list);
  if (in_.list.broken && in_.list.broken->kind != WalkBreak::Kind::kUninitialised)
    objects.broken = in_.list.broken->to_string();
  for (const Kva node : in_.list.nodes) dsq_entry(objects, node);
  priq(objects);
  in_.objects.dsqs.push_back(std::move(objects));
}

void DsqCapture::dsq_entry(DsqObjects& objects, Kva node) {
  const TaskPlan& plan = in_.plan.task;
  if (!plan.dsq_node) return;
  if (plan.dsq_node_flags) {
    const auto flags = in_.memory.read<std::uint32_t>(
        node + (plan.dsq_node_flags->offset - plan.dsq_node->offset), in_.budget);
    if (flags && (*flags & in_.plan.constants.lnode_cursor) != 0) {
      ++objects.cursors;
      return;
    }
  }
  const Kva task = node - plan.dsq_node->offset;
  objects.tasks.push_back(task);
  tasks_.add(task, TaskSource::kDsq);
}

void DsqCapture::priq(DsqObjects& objects) {
  if (!in_.plan.dsq.priq || !in_.plan.task.dsq_priq) return;
  const RbTreeContents tree =
      walk_rb_tree(in_.memory, in_.budget, objects.dsq + in_.plan.dsq.priq->offset, in_.limits.max_tasks);
  objects.priq_nodes = tree.nodes.size();
  if (tree.broken) objects.priq_broken = tree.broken->to_string();
  if (tree.nodes.empty() || objects.priq_broken || objects.broken) return;
  objects.priq_order_differs =
      !std::equal(tree.nodes.begin(), tree.nodes.end(), objects.tasks.begin(), objects.tasks.end(),
                  [&](Kva node, Kva task) { return node - in_.plan.task.dsq_priq->offset == task; });
}

void DsqCapture::keep_dispatch_buffer(Kva context) {
  if (!in_.plan.dispatch_buffer) return;
  const DispatchBufferPlan& plan = *in_.plan.dispatch_buffer;
  in_.keep(context + plan.cursor, sizeof(std::uint32_t));
  const auto cursor = in_.memory.read<std::uint32_t>(context + plan.cursor, in_.budget);
  for (std::uint32_t i = 0; cursor && i < std::min(*cursor, kMaxDispatchEntries); ++i) {
    const Kva entry = context + plan.entries + i * plan.entry.type().size;
    plan.entry.capture(in_.captured, in_.memory, entry, in_.budget);
    tasks_.add(in_.pointer(entry + plan.task), TaskSource::kDispatchBuffer);
  }
}

void DsqCapture::add_those_of_tasks() {
  const auto dsq_at = in_.kernel.types()->place("task_struct", "scx.dsq");
  if (!dsq_at || !in_.plan.dsq.id) return;
  const std::uint64_t builtin = std::uint64_t{1} << 63;  // SCX_DSQ_FLAG_BUILTIN
  const std::uint64_t global =
      in_.kernel.types()->enumerator("SCX_DSQ_GLOBAL", builtin | 1).value_or(builtin | 1);
  KvaSet seen;
  for (const DsqObjects& known : in_.objects.dsqs) static_cast<void>(seen.insert(known.dsq));
  for (std::size_t i = 0; i < in_.objects.tasks.size(); ++i) {
    const Kva dsq = in_.pointer(in_.objects.tasks[i].task + dsq_at->offset);
    if (dsq.value() == 0 || !seen.insert(dsq)) continue;
    const auto id = in_.memory.read<std::uint64_t>(dsq + in_.plan.dsq.id->offset, in_.budget);
    if (id && (*id & builtin) == 0)
      add(dsq, ktstr::v1::Dsq::USER, std::nullopt, Kva());
    else if (id && *id == global)
      add(dsq, ktstr::v1::Dsq::GLOBAL, in_.nodes() == 1 ? std::optional(0U) : std::nullopt, Kva());
  }
}

}  // namespace ktstr
