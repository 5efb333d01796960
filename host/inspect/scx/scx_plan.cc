#include "host/inspect/scx/scx_plan.h"

#include <algorithm>
#include <set>
#include <string_view>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

namespace ktstr {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr std::uint64_t kDefaultStack = 16384;

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
       "scx.deferred_reenq_locals", "scx.deferred_reenq_users", "scx.sub_dispatch_prev"});
  StructLayout& layout = rq.layout;
  rq.curr = layout.need(types, "Cpu.curr", {"curr"});
  rq.donor = layout.want(types, {"donor"});
  rq.idle = layout.need(types, "Cpu.idle", {"idle"});
  rq.runnable_list = layout.need(types, "Cpu.runnable_list", {"scx.runnable_list"});
  rq.ddsp_deferred_locals = layout.want(types, {"scx.ddsp_deferred_locals"});
  rq.deferred_reenq_locals = layout.want(types, {"scx.deferred_reenq_locals"});
  rq.deferred_reenq_users = layout.want(types, {"scx.deferred_reenq_users"});
  rq.sub_dispatch_prev = layout.want(types, {"scx.sub_dispatch_prev"});
  rq.local_dsq = layout.need(types, "local DSQs", {"scx.local_dsq"});
  rq.bypass_dsq = layout.want(types, {"scx.bypass_dsq"});
  rq.reject_dsq = layout.want(types, {"scx.reject_dsq"});
  rq.rescue_dsq = layout.want(types, {"scx.rescue.dsq"});
  return rq;
}

// Members of struct sched_ext_ops that point to functions.
std::vector<Place> find_callbacks(const KernelTypes& types, StructLayout& layout, const std::string& base) {
  std::vector<Place> callbacks;
  const auto ops = types.find_struct("sched_ext_ops");
  if (!ops) return callbacks;
  for (const Place& member : types.members(*ops)) {
    if (member.type.kind != ValueKind::kPointer || types.pointee(member.type).kind != ValueKind::kOther)
      continue;
    if (member.path == "priv") continue;  // void *
    auto place = layout.want(types, {base + member.path});
    if (!place) continue;
    place->path = member.path;
    callbacks.push_back(std::move(*place));
  }
  return callbacks;
}

SchedPlan make_sched(const KernelTypes& types, std::size_t mask_bytes) {
  SchedPlan sched;
  sched.legacy = !types.find_struct("scx_sched");
  const std::vector<std::string_view> elsewhere = {"ops",
                                                   "ops_cid",
                                                   "dsq_hash",
                                                   "pcpu",
                                                   "pnode",
                                                   "global_dsqs",
                                                   "event_stats_cpu",
                                                   "kobj",
                                                   "disable_work",
                                                   "error_irq_work",
                                                   "rcu_work",
                                                   "bypass_lb_timer",
                                                   "all",
                                                   "children",
                                                   "sibling",
                                                   "hash_node",
                                                   "exit_info",
                                                   "disable_irq_work",
                                                   "propagate_exit_irq_work"};
  sched.layout = sched.legacy
                     ? StructLayout(types, ktstr::v1::Sched::descriptor(), mask_bytes,
                                    StructLayout::Alias{"sched_ext_ops", "ops."})
                     : StructLayout(types, ktstr::v1::Sched::descriptor(), mask_bytes, "", elsewhere);
  StructLayout& layout = sched.layout;
  sched.callbacks = find_callbacks(types, layout, sched.legacy ? "" : "ops.");
  if (sched.legacy) return sched;
  sched.exit_info = layout.need(types, "Sched.exit_info", {"exit_info"});
  sched.exit_kind = layout.need(types, "Sched.exit_kind", {"exit_kind.counter"});
  sched.dsq_hash = layout.need(types, "user DSQs", {"dsq_hash"});
  sched.pnode = layout.want(types, {"pnode"});
  sched.global_dsqs = layout.want(types, {"global_dsqs"});
  if (!sched.pnode && !sched.global_dsqs) layout.need(types, "global DSQs", {"pnode", "global_dsqs"});
  sched.pcpu = layout.want(types, {"pcpu"});
  sched.event_stats_cpu = layout.want(types, {"event_stats_cpu"});
  sched.children = layout.want(types, {"children"});
  sched.sibling = layout.want(types, {"sibling"});
  sched.all = layout.want(types, {"all"});
  return sched;
}

SchedCpuPlan make_sched_cpu(const KernelTypes& types, std::size_t mask_bytes) {
  SchedCpuPlan plan;
  plan.layout = StructLayout(types, ktstr::v1::SchedCpu::descriptor(), mask_bytes, "",
                             {"bypass_dsq", "event_stats", "dsp_ctx", "sch"});
  plan.bypass_dsq = plan.layout.want(types, {"bypass_dsq"});
  plan.event_stats = plan.layout.want(types, {"event_stats"});
  plan.dispatch_context = plan.layout.want(types, {"dsp_ctx"});
  return plan;
}

DsqPlan make_dsq(const KernelTypes& types, std::size_t mask_bytes) {
  DsqPlan dsq;
  dsq.layout = StructLayout(types, ktstr::v1::Dsq::descriptor(), mask_bytes, "",
                            {"list", "priq", "hash_node", "free_node", "rcu", "sched", "pcpu"});
  dsq.list = dsq.layout.need(types, "Dsq.tasks", {"list"});
  dsq.priq = dsq.layout.need(types, "Dsq.priq_nodes", {"priq.rb_node"});
  dsq.id = dsq.layout.want(types, {"id"});
  dsq.hash_node = dsq.layout.need(types, "user DSQs", {"hash_node"});
  return dsq;
}

TaskPlan make_task(const KernelTypes& types, std::size_t mask_bytes) {
  TaskPlan task;
  task.layout = StructLayout(types, ktstr::v1::Task::descriptor(), mask_bytes, "scx",
                             {"scx.dsq_list", "scx.dsq_priq", "scx.runnable_node", "scx.tasks_node",
                              "scx.tid_hash_node", "scx.kf_tasks"});
  StructLayout& layout = task.layout;
  task.tasks = layout.need(types, "the task tree", {"tasks"});
  task.thread_node = layout.need(types, "threads", {"thread_node"});
  task.signal = layout.need(types, "threads", {"signal"});
  task.stack = layout.need(types, "stacks", {"stack"});
  task.thread_sp = layout.need(types, "stacks of sleeping tasks", {"thread.sp"});
  task.cgroups = layout.want(types, {"cgroups"});
  task.tasks_node = layout.need(types, "scx_tasks", {"scx.tasks_node"});
  task.runnable_node = layout.need(types, "runnable lists", {"scx.runnable_node"});
  task.dsq_node = layout.need(types, "contents of DSQs", {"scx.dsq_list.node", "scx.dsq_node.list"});
  task.dsq_node_flags = layout.want(types, {"scx.dsq_list.flags"});
  task.dsq_priq = layout.need(types, "vtime order of DSQs", {"scx.dsq_priq", "scx.dsq_node.priq"});
  task.flags = layout.want(types, {"scx.flags"});
  if (const auto head = types.place("signal_struct", "thread_head")) {
    task.thread_head = head->offset;
    task.has_threads = task.signal && task.thread_node;
  }
  const auto stack = types.find_struct("thread_union");
  task.stack_bytes = stack && stack->size >= 4096 && stack->size <= (1U << 20) ? stack->size : kDefaultStack;
  return task;
}

std::optional<Place> place_of(const KernelTypes& types, std::string_view type,
                              std::initializer_list<std::string_view> paths) {
  for (const std::string_view path : paths) {
    if (auto place = types.place(type, path)) return std::move(*place);
  }
  return std::nullopt;
}

std::optional<DispatchBufferPlan> make_dispatch_buffer(const KernelTypes& types, std::size_t mask_bytes) {
  const auto cursor = place_of(types, "scx_dsp_ctx", {"cursor"});
  const auto entries = place_of(types, "scx_dsp_ctx", {"buf"});
  const auto task = place_of(types, "scx_dsp_buf_ent", {"task"});
  if (!cursor || cursor->type.size != sizeof(std::uint32_t) || !entries || !task) return std::nullopt;
  return DispatchBufferPlan{cursor->offset, entries->offset,
                            StructLayout(types, ktstr::v1::DispatchBufferEntry::descriptor(), mask_bytes),
                            task->offset};
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

ScxConstants make_constants(const KernelTypes& types) {
  ScxConstants constants;
  const auto value = [&](std::string_view name, std::uint64_t fallback) {
    return types.enumerator(name).value_or(fallback);
  };
  constants.task_cursor = value("SCX_TASK_CURSOR", std::uint64_t{1} << 31) & 0xffffffff;
  constants.lnode_cursor = value("SCX_DSQ_LNODE_ITER_CURSOR", 1);
  constants.opss_shift = static_cast<std::uint32_t>(value("SCX_OPSS_QSEQ_SHIFT", 2) & 63);
  constants.opss_mask = (std::uint64_t{1} << constants.opss_shift) - 1;
  constants.state_shift = static_cast<std::uint32_t>(value("SCX_TASK_STATE_SHIFT", 8) & 31);
  constants.state_mask = value("SCX_TASK_STATE_MASK", 0x300) & 0xffffffff;
  constants.exit_error = value("SCX_EXIT_ERROR", 1024);
  for (const Enumerator& one : types.enumerators("scx_ops_state")) {
    if (one.name.starts_with("SCX_OPSS_") && one.value <= constants.opss_mask &&
        one.name != "SCX_OPSS_QSEQ_SHIFT")
      constants.opss.push_back({one.name.substr(9), one.value});
  }
  // Task states are an enum of their own to 7.0, and stand shifted among the flags from 7.1.
  auto states = types.enumerators("scx_task_state");
  if (states.empty()) {
    static const std::set<std::string, std::less<>> names = {"SCX_TASK_NONE",    "SCX_TASK_INIT_BEGIN",
                                                             "SCX_TASK_INIT",    "SCX_TASK_READY",
                                                             "SCX_TASK_ENABLED", "SCX_TASK_DEAD"};
    for (Enumerator& one : types.enumerators("scx_ent_flags")) {
      if (!names.contains(one.name)) continue;
      one.value = (one.value & constants.state_mask) >> constants.state_shift;
      states.push_back(std::move(one));
    }
  }
  for (Enumerator& one : states) {
    if (!one.name.starts_with("SCX_TASK_") || one.name == "SCX_TASK_NR_STATES") continue;
    constants.states.push_back({one.name.substr(9), one.value});
  }
  constants.exit_kinds = types.enumerators("scx_exit_kind");
  return constants;
}

void add_enum_tables(const KernelTypes& types, const Descriptor* message,
                     std::vector<ktstr::v1::EnumTable>& tables) {
  for (int i = 0; i < message->field_count(); ++i) {
    const std::string& names = message->field(i)->options().GetExtension(ktstr::v1::bits);
    const bool known =
        std::any_of(tables.begin(), tables.end(), [&](const auto& one) { return one.enum_names() == names; });
    if (names.empty() || known) continue;
    ktstr::v1::EnumTable table;
    table.set_enum_names(names);
    // Alternatives are separated by '|'.
    for (std::size_t begin = 0; begin <= names.size();) {
      const std::size_t end = std::min(names.find('|', begin), names.size());
      for (const Enumerator& one : types.enumerators(std::string_view(names).substr(begin, end - begin))) {
        auto* constant = table.add_constants();
        constant->set_name(one.name);
        constant->set_value(one.value);
      }
      begin = end + 1;
    }
    if (table.constants_size() > 0) tables.push_back(std::move(table));
  }
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
  plan.cgroup = {place_of(types, "css_set", {"dfl_cgrp"}), place_of(types, "cgroup", {"kn"}),
                 place_of(types, "kernfs_node", {"name"}),
                 place_of(types, "kernfs_node", {"__parent", "parent"})};
  plan.exit_info =
      StructLayout(types, ktstr::v1::ScxExitInfo::descriptor(), mask_bytes, "", {"bt", "bt_len", "dump"});
  plan.exit_bt = plan.exit_info.want(types, {"bt"});
  plan.exit_bt_len = plan.exit_info.want(types, {"bt_len"});
  plan.exit_dump = plan.exit_info.want(types, {"dump"});
  plan.dispatch_buffer = make_dispatch_buffer(types, mask_bytes);
  plan.pnode_global_dsq = place_of(types, "scx_sched_pnode", {"global_dsq"});
  if (const auto stats = types.find_struct("scx_event_stats")) {
    plan.event_stats_size = stats->size;
    for (const Place& counter : types.members(*stats)) {
      if (counter.type.kind == ValueKind::kInteger) plan.event_counters.push_back(counter);
    }
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
                                          &plan.dsq.layout, &plan.task.layout,  &plan.exit_info};
  if (plan.dispatch_buffer) all.push_back(&plan.dispatch_buffer->entry);
  return all;
}

}  // namespace

std::vector<ktstr::v1::Absence> ScxPlan::absent() const {
  std::vector<ktstr::v1::Absence> all;
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
