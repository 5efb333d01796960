#include "host/inspect/scx/scx_plan.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include "host/inspect/reasons.h"

namespace ktstr {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr std::uint64_t kDefaultStack = 16384;
// Structures that walkers know how to follow.
constexpr std::string_view kList = "list_head";
constexpr std::string_view kDsq = "scx_dispatch_q";

// "u64" and the like, as the option `symbol` has them.
std::optional<GlobalField::Choice> parse_choice(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon + 2 > text.size()) return std::nullopt;
  GlobalField::Choice choice{std::string(text.substr(0, colon)), 0, text[colon + 1] == 's'};
  const std::string_view bits = text.substr(colon + 2);
  if (bits == "8") choice.size = 1;
  if (bits == "16") choice.size = 2;
  if (bits == "32") choice.size = 4;
  if (bits == "64") choice.size = 8;
  return choice.size == 0 ? std::nullopt : std::optional(std::move(choice));
}

std::vector<GlobalField> make_globals() {
  std::vector<GlobalField> globals;
  const Descriptor* message = ktstr::v1::ScxGlobals::descriptor();
  for (int i = 0; i < message->field_count(); ++i) {
    const FieldDescriptor* field = message->field(i);
    GlobalField global{field, {}};
    for (int k = 0; k < field->options().ExtensionSize(ktstr::v1::symbol); ++k) {
      if (auto choice = parse_choice(field->options().GetExtension(ktstr::v1::symbol, k)))
        global.choices.push_back(std::move(*choice));
    }
    if (!global.choices.empty()) globals.push_back(std::move(global));
  }
  return globals;
}

RqPlan make_rq(const KernelTypes& types, std::size_t mask_bytes) {
  RqPlan rq;
  rq.layout = StructLayout(
      types, ktstr::v1::Cpu::descriptor(), mask_bytes, "scx",
      {"scx.local_dsq", "scx.bypass_dsq", "scx.reject_dsq", "scx.rescue.dsq", "scx.runnable_list",
       "scx.deferred_irq_work", "scx.kick_cpus_irq_work", "scx.ddsp_deferred_locals",
       "scx.deferred_reenq_locals", "scx.deferred_reenq_users", "scx.sub_dispatch_prev", "scx.rescue.curr"});
  StructLayout& layout = rq.layout;
  rq.curr = layout.need(types, "Cpu.curr", StructLayout::kPointer, {"curr"});
  rq.donor = layout.need(types, "Cpu.donor", StructLayout::kPointer, {"donor"});
  rq.idle = layout.need(types, "Cpu.idle", StructLayout::kPointer, {"idle"});
  rq.runnable_list = layout.need(types, "Cpu.runnable_list", kList, {"scx.runnable_list"});
  rq.ddsp_deferred_locals =
      layout.need(types, "Cpu.ddsp_deferred_locals", kList, {"scx.ddsp_deferred_locals"});
  rq.deferred_reenq_locals =
      layout.need(types, "Cpu.deferred_reenq_locals", kList, {"scx.deferred_reenq_locals"});
  rq.deferred_reenq_users =
      layout.need(types, "Cpu.deferred_reenq_users", kList, {"scx.deferred_reenq_users"});
  rq.sub_dispatch_prev =
      layout.need(types, "Cpu.sub_dispatch_prev", StructLayout::kPointer, {"scx.sub_dispatch_prev"});
  rq.rescue_curr = layout.need(types, "Cpu.rescue_curr", StructLayout::kPointer, {"scx.rescue.curr"});
  rq.local_dsq = layout.need(types, "local DSQs", kDsq, {"scx.local_dsq"});
  rq.reject_dsq = layout.need(types, "reject DSQs", kDsq, {"scx.reject_dsq"});
  rq.rescue_dsq = layout.need(types, "rescue DSQs", kDsq, {"scx.rescue.dsq"});
  return rq;
}

// Members of struct sched_ext_ops that point to functions.
std::vector<std::string> callback_paths(const KernelTypes& types, const std::string& base) {
  std::vector<std::string> paths;
  const auto ops = types.find_struct("sched_ext_ops");
  if (!ops) return paths;
  for (const Place& member : types.members(*ops)) {
    if (member.type.kind != ValueKind::kPointer || types.pointee(member.type).kind != ValueKind::kOther)
      continue;
    if (member.path != "priv") paths.push_back(base + member.path);  // void *
  }
  return paths;
}

std::vector<Place> find_callbacks(const KernelTypes& types, StructLayout& layout, const std::string& base) {
  std::vector<Place> callbacks;
  for (const std::string& path : callback_paths(types, base)) {
    auto place = layout.want(types, StructLayout::kPointer, {path});
    if (!place) continue;
    place->path = path.substr(base.size());
    callbacks.push_back(std::move(*place));
  }
  return callbacks;
}

SchedPlan make_sched(const KernelTypes& types, std::size_t mask_bytes) {
  SchedPlan sched;
  sched.legacy = !types.find_struct("scx_sched");
  std::vector<std::string_view> elsewhere = {"ops_cid",   "dsq_hash",         "pcpu",
                                             "pnode",     "global_dsqs",      "event_stats_cpu",
                                             "kobj",      "disable_work",     "error_irq_work",
                                             "rcu_work",  "bypass_lb_timer",  "all",
                                             "children",  "sibling",          "hash_node",
                                             "exit_info", "disable_irq_work", "propagate_exit_irq_work"};
  const std::vector<std::string> callbacks = callback_paths(types, "ops.");
  elsewhere.insert(elsewhere.end(), callbacks.begin(), callbacks.end());
  sched.layout = sched.legacy
                     ? StructLayout(types, ktstr::v1::Sched::descriptor(), mask_bytes,
                                    StructLayout::Alias{"sched_ext_ops", "ops."})
                     : StructLayout(types, ktstr::v1::Sched::descriptor(), mask_bytes, "", elsewhere);
  StructLayout& layout = sched.layout;
  sched.callbacks = find_callbacks(types, layout, sched.legacy ? "" : "ops.");
  if (sched.legacy) return sched;
  sched.exit_info = layout.need(types, "Sched.exit_info", StructLayout::kPointer, {"exit_info"});
  sched.exit_kind = layout.need(types, "Sched.exit_kind", StructLayout::kNumber, {"exit_kind.counter"});
  sched.dsq_hash = layout.need(types, "user DSQs", "rhashtable", {"dsq_hash"});
  sched.pnode = layout.want(types, StructLayout::kPointer, {"pnode"});
  sched.global_dsqs = layout.want(types, StructLayout::kPointer, {"global_dsqs"});
  if (!sched.pnode && !sched.global_dsqs)
    layout.need(types, "global DSQs", StructLayout::kPointer, {"pnode", "global_dsqs"});
  sched.pcpu = layout.need(types, "Sched.cpus", StructLayout::kPointer, {"pcpu"});
  sched.children = layout.need(types, "the tree of schedulers", kList, {"children"});
  sched.sibling = layout.need(types, "the tree of schedulers", kList, {"sibling"});
  sched.all = layout.need(types, "scx_sched_all", kList, {"all"});
  return sched;
}

SchedCpuPlan make_sched_cpu(const KernelTypes& types, std::size_t mask_bytes) {
  SchedCpuPlan plan;
  plan.layout = StructLayout(types, ktstr::v1::SchedCpu::descriptor(), mask_bytes, "",
                             {"bypass_dsq", "event_stats", "dsp_ctx", "sch"});
  return plan;
}

DsqPlan make_dsq(const KernelTypes& types, std::size_t mask_bytes) {
  DsqPlan dsq;
  dsq.layout = StructLayout(types, ktstr::v1::Dsq::descriptor(), mask_bytes, "",
                            {"list", "priq", "hash_node", "free_node", "rcu", "sched", "pcpu"});
  dsq.list = dsq.layout.need(types, "Dsq.tasks", kList, {"list"});
  dsq.priq = dsq.layout.need(types, "Dsq.priq_nodes", StructLayout::kPointer, {"priq.rb_node"});
  dsq.id = dsq.layout.need(types, "names of DSQs", StructLayout::kNumber, {"id"});
  dsq.hash_node = dsq.layout.need(types, "user DSQs", "rhash_head", {"hash_node"});
  return dsq;
}

TaskPlan make_task(const KernelTypes& types, std::size_t mask_bytes) {
  TaskPlan task;
  task.layout = StructLayout(types, ktstr::v1::Task::descriptor(), mask_bytes, "scx",
                             {"scx.dsq_list.node", "scx.dsq_list.flags", "scx.dsq_priq", "scx.runnable_node",
                              "scx.tasks_node", "scx.tid_hash_node"});
  StructLayout& layout = task.layout;
  task.tasks = layout.need(types, "the task tree", kList, {"tasks"});
  task.thread_node = layout.need(types, "threads", kList, {"thread_node"});
  task.signal = layout.need(types, "threads", StructLayout::kPointer, {"signal"});
  task.stack = layout.need(types, "stacks", StructLayout::kPointer, {"stack"});
  task.thread_sp = layout.need(types, "stacks of sleeping tasks", StructLayout::kNumber, {"thread.sp"});
  task.cgroups = layout.need(types, "Task.cgroup", StructLayout::kPointer, {"cgroups"});
  task.task_group = layout.need(types, "task groups", StructLayout::kPointer, {"sched_task_group"});
  task.tasks_node = layout.need(types, "scx_tasks", kList, {"scx.tasks_node"});
  task.runnable_node = layout.need(types, "runnable lists", kList, {"scx.runnable_node"});
  task.dsq_node = layout.need(types, "contents of DSQs", kList, {"scx.dsq_list.node", "scx.dsq_node.list"});
  task.dsq_node_flags = layout.need(types, "cursors on DSQs", StructLayout::kNumber, {"scx.dsq_list.flags"});
  task.dsq_priq = layout.need(types, "vtime order of DSQs", "rb_node", {"scx.dsq_priq", "scx.dsq_node.priq"});
  task.flags = layout.need(types, "scx_tasks", StructLayout::kNumber, {"scx.flags"});
  if (const auto head = types.place("signal_struct", "thread_head"); head && head->type.name == kList) {
    task.thread_head = head->offset;
    task.has_threads = task.signal && task.thread_node;
  }
  const auto stack = types.find_struct("thread_union");
  task.stack_bytes = stack && stack->size >= 4096 && stack->size <= (1U << 20) ? stack->size : kDefaultStack;
  return task;
}

std::optional<Place> place_of(const KernelTypes& types, std::string_view type,
                              std::initializer_list<std::string_view> paths, std::string* why = nullptr) {
  for (const std::string_view path : paths) {
    auto place = types.place(type, path);
    if (place) return std::move(*place);
    if (why != nullptr) add_reason(*why, place.error());
  }
  return std::nullopt;
}

// Without a reason the structure itself is missing, and its layout says so.
void lacks(ScxPlan& plan, std::string_view what, std::string why) {
  if (why.empty()) return;
  auto& absence = plan.layers_absent.emplace_back();
  absence.set_what(std::string(what));
  absence.set_reason(std::move(why));
}

void check_threads(const KernelTypes& types, ScxPlan& plan) {
  if (!plan.task.signal || !plan.task.thread_node || plan.task.has_threads) return;
  const auto head = types.place("signal_struct", "thread_head");
  lacks(plan, "threads", head ? "signal_struct.thread_head is no struct list_head" : head.error());
}

// What lies in one structure or in another.
void make_moved(const KernelTypes& types, ScxPlan& plan) {
  std::string in_rq, in_pcpu;
  plan.rq.bypass_dsq = plan.rq.layout.want(types, kDsq, {"scx.bypass_dsq"}, &in_rq);
  StructLayout& pcpu = plan.sched_cpu.layout;
  plan.sched_cpu.bypass_dsq = pcpu.want(types, kDsq, {"bypass_dsq"}, &in_pcpu);
  if (!plan.rq.bypass_dsq && !plan.sched_cpu.bypass_dsq)
    lacks(plan, "bypass DSQs", join_reasons(in_rq, in_pcpu));
  std::string in_stats, in_sched;
  plan.sched_cpu.event_stats = pcpu.want(types, "scx_event_stats", {"event_stats"}, &in_stats);
  if (!plan.sched.legacy)
    plan.sched.event_stats_cpu =
        plan.sched.layout.want(types, StructLayout::kPointer, {"event_stats_cpu"}, &in_sched);
  if (!plan.sched.legacy && types.find_struct("scx_event_stats") && !plan.sched_cpu.event_stats &&
      !plan.sched.event_stats_cpu)
    lacks(plan, "event counters", join_reasons(in_stats, in_sched));
  // Where this is missing it may be a per-CPU variable: the capture looks, and says so.
  plan.sched_cpu.dispatch_context = pcpu.want(types, "scx_dsp_ctx", {"dsp_ctx"}, &plan.no_dispatch_context);
}

void make_dispatch_buffer(const KernelTypes& types, ScxPlan& plan) {
  std::string why;
  const auto cursor = place_of(types, "scx_dsp_ctx", {"cursor"}, &why);
  const auto entries = place_of(types, "scx_dsp_ctx", {"buf"}, &why);
  const auto task = place_of(types, "scx_dsp_buf_ent", {"task"}, &why);
  if (cursor && cursor->type.size != sizeof(std::uint32_t)) why = "scx_dsp_ctx.cursor is no 32-bit number";
  if (!why.empty()) return lacks(plan, "dispatch buffers", std::move(why));
  plan.dispatch_buffer = DispatchBufferPlan{
      cursor->offset, entries->offset,
      StructLayout(types, ktstr::v1::DispatchBufferEntry::descriptor(), plan.mask_bytes()), task->offset};
}

void make_cgroup(const KernelTypes& types, ScxPlan& plan) {
  std::string why;
  plan.cgroup.dfl_cgrp = place_of(types, "css_set", {"dfl_cgrp"}, &why);
  plan.cgroup.kn = place_of(types, "cgroup", {"kn"}, &why);
  plan.cgroup.name = place_of(types, "kernfs_node", {"name"}, &why);
  std::string no_parent;
  plan.cgroup.parent = place_of(types, "kernfs_node", {"__parent", "parent"}, &no_parent);
  if (!plan.cgroup.parent) add_reason(why, no_parent);
  if (!why.empty()) lacks(plan, "Task.cgroup", std::move(why));
}

std::optional<RhashtableOffsets> make_table(const KernelTypes& types) {
  const auto tbl = types.place("rhashtable", "tbl");
  const auto size = types.place("bucket_table", "size");
  const auto nest = types.place("bucket_table", "nest");
  const auto future = types.place("bucket_table", "future_tbl");
  const auto buckets = types.place("bucket_table", "buckets");
  const auto next = types.place("rhash_head", "next");
  if (!tbl || !size || !nest || !future || !buckets || !next) return std::nullopt;
  RhashtableOffsets offsets;
  offsets.tbl = tbl->offset;
  offsets.table_size = size->offset;
  offsets.table_nest = nest->offset;
  offsets.table_future_tbl = future->offset;
  offsets.table_buckets = buckets->offset;
  offsets.head_next = next->offset;
  return offsets;
}

}  // namespace

ScxPlan make_scx_plan(const KernelTypes& types, std::uint32_t max_cpus) {
  ScxPlan plan;
  plan.max_cpus = std::clamp<std::uint32_t>(max_cpus, 1, 8192);
  const std::size_t mask_bytes = plan.mask_bytes();
  plan.globals = make_globals();
  plan.rq = make_rq(types, mask_bytes);
  plan.sched = make_sched(types, mask_bytes);
  plan.sched_cpu = make_sched_cpu(types, mask_bytes);
  plan.dsq = make_dsq(types, mask_bytes);
  plan.task = make_task(types, mask_bytes);
  plan.task_group = StructLayout(types, ktstr::v1::TaskGroup::descriptor(), mask_bytes, "scx");
  make_moved(types, plan);
  check_threads(types, plan);
  make_cgroup(types, plan);
  plan.exit_info =
      StructLayout(types, ktstr::v1::ScxExitInfo::descriptor(), mask_bytes, "", {"bt", "bt_len", "dump"});
  plan.exit_bt = plan.exit_info.need(types, "ScxExitInfo.bt", StructLayout::kPointer, {"bt"});
  plan.exit_bt_len = plan.exit_info.need(types, "ScxExitInfo.bt", StructLayout::kNumber, {"bt_len"});
  plan.exit_dump = plan.exit_info.need(types, "ScxExitInfo.dump", StructLayout::kPointer, {"dump"});
  make_dispatch_buffer(types, plan);
  std::string no_pnode;
  plan.pnode_global_dsq = place_of(types, "scx_sched_pnode", {"global_dsq"}, &no_pnode);
  if (plan.sched.pnode && !plan.pnode_global_dsq) lacks(plan, "global DSQs", no_pnode);
  if (const auto stats = types.find_struct("scx_event_stats")) {
    plan.event_stats_size = stats->size;
    for (const Place& counter : types.members(*stats)) {
      if (counter.type.kind == ValueKind::kInteger) plan.event_counters.push_back(counter);
    }
  } else {
    lacks(plan, "event counters", "the kernel has no struct scx_event_stats");
  }
  plan.dsq_table = make_table(types);
  const auto idle_cpu = place_of(types, "scx_idle_cpus", {"cpu"});
  const auto idle_smt = place_of(types, "scx_idle_cpus", {"smt"});
  const auto mask = place_of(types, "scx_rq", {"cpus_to_kick"});
  const auto other_mask = place_of(types, "scx_sched_pcpu", {"cpus_to_kick"});
  const auto& any_mask = mask ? mask : other_mask;
  plan.masks_are_pointers = !any_mask || any_mask->type.kind == ValueKind::kPointer;
  // The unnamed struct of 6.12 to 6.13 has the same two members.
  plan.idle_cpu = idle_cpu ? idle_cpu->offset : 0;
  plan.idle_smt = idle_smt ? idle_smt->offset : any_mask ? any_mask->type.size : 8;
  if (const auto syncs = place_of(types, "scx_kick_syncs", {"syncs"})) plan.kick_syncs_offset = syncs->offset;
  if (const auto seqs = place_of(types, "scx_kick_pseqs", {"seqs"})) plan.kick_syncs_offset = seqs->offset;
  plan.constants = make_constants(types);
  for (const Descriptor* message :
       {ktstr::v1::ScxGlobals::descriptor(), ktstr::v1::Sched::descriptor(),
        ktstr::v1::SchedCpu::descriptor(), ktstr::v1::Cpu::descriptor(), ktstr::v1::Task::descriptor()}) {
    add_enum_tables(types, message, plan.enum_tables);
  }
  return plan;
}

namespace {

// Every layout of a plan.
std::vector<const StructLayout*> layouts(const ScxPlan& plan) {
  std::vector<const StructLayout*> all = {&plan.rq.layout,  &plan.sched.layout, &plan.sched_cpu.layout,
                                          &plan.dsq.layout, &plan.task.layout,  &plan.task_group,
                                          &plan.exit_info};
  if (plan.dispatch_buffer) all.push_back(&plan.dispatch_buffer->entry);
  return all;
}

}  // namespace

std::vector<ktstr::v1::Absence> ScxPlan::absent() const {
  std::vector<ktstr::v1::Absence> all = layers_absent;
  for (const StructLayout* layout : layouts(*this))
    all.insert(all.end(), layout->absent().begin(), layout->absent().end());
  return all;
}

std::vector<ktstr::v1::Access> ScxPlan::access() const {
  std::vector<ktstr::v1::Access> all;
  for (const StructLayout* layout : layouts(*this))
    all.insert(all.end(), layout->access().begin(), layout->access().end());
  return all;
}

}  // namespace ktstr
