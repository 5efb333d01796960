// FakeGuest: schedulers, dispatch queues, tasks.
#include <algorithm>

#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

constexpr std::uint32_t kBuckets = 64;
constexpr std::uint32_t kTaskCursor = std::uint32_t{1} << 31;
constexpr std::size_t kBufferEntries = 8;

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Schedulers

void FakeGuest::make_first_sched() {
  if (is_new()) {
    if (has_symbol("scx_sched_all")) init_list(symbol("scx_sched_all"));
    root_ = add_sched("fake", Kva());
    if (has_symbol("scx_root")) write(symbol("scx_root"), root_);
    return;
  }
  if (has_symbol("scx_ops")) {
    root_ = symbol("scx_ops");
    set_text(root_, "sched_ext_ops", "name", "fake");
    set(root_, "sched_ext_ops", "enqueue", kText + 0x5000);
  }
  if (has_symbol("dsq_hash")) write(symbol("dsq_hash"), make_buckets(kBuckets));
  if (has_symbol("global_dsqs")) write(symbol("global_dsqs"), make_global_dsqs(Kva()));
  if (has_symbol("scx_watchdog_timeout")) write(symbol("scx_watchdog_timeout"), std::uint64_t{5} * kHz);
  if (has_symbol("scx_exit_info")) write(symbol("scx_exit_info"), make("scx_exit_info"));
}

Kva FakeGuest::make_global_dsqs(Kva sched) {
  const bool in_node = types_->find_struct("scx_sched_pnode").has_value();
  const Kva table = alloc(8 * options_.nodes);
  for (std::uint32_t node = 0; node < options_.nodes; ++node) {
    const Kva object = make(in_node ? "scx_sched_pnode" : "scx_dispatch_q");
    write(table + 8 * node, object);
    init_dsq(in_node ? at(object, "scx_sched_pnode", "global_dsq") : object, 0x8000000000000001, sched);
  }
  return table;
}

Kva FakeGuest::add_sched(std::string_view name, Kva parent) {
  const char* const type = "scx_sched";
  const Kva sched = make(type);
  set_text(sched, type, "ops.name", name);
  set(sched, type, "ops.enqueue", kText + 0x5000);
  set(sched, type, "dsq_hash.tbl", make_buckets(kBuckets).value());
  set(sched, type, "pnode", make_global_dsqs(sched).value());
  const std::uint64_t areas =
      alloc_per_cpu(types_->find_struct("scx_sched_pcpu")->size + kBufferEntries * 32);
  set(sched, type, "pcpu", areas);
  set(sched, type, "watchdog_timeout", 5 * kHz);
  set(sched, type, "exit_info", make("scx_exit_info").value());
  init_list(at(sched, type, "children"));
  if (has_symbol("scx_sched_all")) append(symbol("scx_sched_all"), at(sched, type, "all"));
  for (std::uint32_t cpu = 0; cpu < options_.cpus; ++cpu) {
    const Kva area = sched_cpu(sched, cpu);
    set(area, "scx_sched_pcpu", "sch", sched.value());
    init_dsq(at(area, "scx_sched_pcpu", "bypass_dsq"), 0x8000000000000003, sched);
  }
  if (parent.value() == 0) return sched;
  append(at(parent, type, "children"), at(sched, type, "sibling"));
  set(sched, type, "level", get(parent, type, "level") + 1);
  set(sched, type, "cgrp_path", text("/sub/" + std::string(name)).value());
  set(sched, type, "ops.sub_cgroup_id", 77);
  return sched;
}

Kva FakeGuest::sched_cpu(Kva sched, std::uint32_t cpu) {
  return per_cpu(get(sched, "scx_sched", "pcpu"), cpu);
}

Kva FakeGuest::exit_info(Kva sched) {
  return Kva(is_new() ? get(sched, "scx_sched", "exit_info") : read64(symbol("scx_exit_info")));
}

void FakeGuest::fail_sched(Kva sched, std::uint32_t kind, std::string_view reason, std::string_view message) {
  if (is_new())
    set(sched, "scx_sched", "exit_kind.counter", kind);
  else
    write(symbol("scx_exit_kind"), kind);
  const Kva info = exit_info(sched);
  set(info, "scx_exit_info", "kind", kind);
  set(info, "scx_exit_info", "reason", text(reason).value());
  set(info, "scx_exit_info", "msg", text(message).value());
}

// ---------------------------------------------------------------------------------------------------------------------
// Queues

Kva FakeGuest::local_dsq(std::uint32_t cpu) {
  return at(rq(cpu), "rq", "scx.local_dsq");
}

Kva FakeGuest::global_dsq(std::uint32_t node, Kva sched) {
  if (options_.shape == Shape::kLegacy) return Kva(read64(Kva(read64(symbol("global_dsqs"))) + 8 * node));
  const Kva table(get(sched.value() == 0 ? root_ : sched, "scx_sched", "pnode"));
  return at(Kva(read64(table + 8 * node)), "scx_sched_pnode", "global_dsq");
}

Kva FakeGuest::bypass_dsq(std::uint32_t cpu, Kva sched) {
  return at(sched_cpu(sched.value() == 0 ? root_ : sched, cpu), "scx_sched_pcpu", "bypass_dsq");
}

void FakeGuest::init_dsq(Kva dsq, std::uint64_t id, Kva sched) {
  init_list(at(dsq, "scx_dispatch_q", "list"));
  set(dsq, "scx_dispatch_q", "id", id);
  if (has("scx_dispatch_q", "sched")) set(dsq, "scx_dispatch_q", "sched", sched.value());
}

Kva FakeGuest::hash_of(Kva sched) {
  if (options_.shape == Shape::kLegacy) return symbol("dsq_hash");
  return at(sched.value() == 0 ? root_ : sched, "scx_sched", "dsq_hash");
}

Kva FakeGuest::make_buckets(std::uint32_t size) {
  const Kva buckets = make("bucket_table", 8 * size);
  set(buckets, "bucket_table", "size", size);
  return buckets;
}

void FakeGuest::hash_in(Kva buckets, std::uint32_t bucket, Kva dsq) {
  const Kva slot = at(buckets, "bucket_table", "buckets") + 8 * bucket;
  const std::uint64_t first = read64(slot);
  const Kva node = at(dsq, "scx_dispatch_q", "hash_node");
  write(node, first == 0 ? slot.value() | 1 : first);
  write(slot, node);
}

Kva FakeGuest::add_user_dsq(std::uint64_t id, Kva sched) {
  const Kva dsq = make("scx_dispatch_q");
  init_dsq(dsq, id, sched.value() == 0 && is_new() ? root_ : sched);
  hash_in(Kva(read64(hash_of(sched))), static_cast<std::uint32_t>(id % kBuckets), dsq);
  return dsq;
}

void FakeGuest::queue(Kva dsq, Kva task) {
  append(at(dsq, "scx_dispatch_q", "list"), at(task, "task_struct", "scx.dsq_list.node"));
  set(task, "task_struct", "scx.dsq", dsq.value());
  const std::uint64_t nr = get(dsq, "scx_dispatch_q", "nr");
  set(dsq, "scx_dispatch_q", "nr", nr + 1);
  if (nr == 0 && has("scx_dispatch_q", "first_task")) set(dsq, "scx_dispatch_q", "first_task", task.value());
}

// A balanced tree of [first, last) of `nodes`; returns its root.
Kva FakeGuest::tree_of(const std::vector<Kva>& nodes, std::size_t first, std::size_t last, Kva parent) {
  if (first == last) return Kva();
  const std::size_t middle = first + (last - first) / 2;
  const Kva node = nodes[middle];
  write(node, parent.value() | 1);
  write(node + 8, tree_of(nodes, middle + 1, last, node));
  write(node + 16, tree_of(nodes, first, middle, node));
  return node;
}

void FakeGuest::queue_vtime(Kva dsq, const std::vector<Kva>& tasks) {
  std::vector<Kva> nodes;
  for (const Kva task : tasks) {
    queue(dsq, task);
    nodes.push_back(at(task, "task_struct", "scx.dsq_priq"));
    set(task, "task_struct", "scx.dsq_vtime", 100 * nodes.size());
    set(task, "task_struct", "scx.dsq_flags", 1);
  }
  set(dsq, "scx_dispatch_q", "priq.rb_node", tree_of(nodes, 0, nodes.size(), Kva()).value());
}

Kva FakeGuest::add_dsq_cursor(Kva dsq) {
  const Kva cursor = make("scx_dsq_list_node");
  append(at(dsq, "scx_dispatch_q", "list"), cursor);
  set(cursor, "scx_dsq_list_node", "flags", 1);
  return cursor;
}

// ---------------------------------------------------------------------------------------------------------------------
// Tasks

Kva FakeGuest::add_task(const FakeTask& spec) {
  const char* const type = "task_struct";
  const Kva task = make(type);
  set(task, type, "pid", static_cast<std::uint32_t>(spec.pid));
  set_text(task, type, "comm", spec.comm);
  set(task, type, "cpus_mask.bits[0]", ~std::uint64_t{0});
  set(task, type, "nr_cpus_allowed", options_.cpus);
  set(task, type, "__state", 1);
  if (has_symbol("ext_sched_class")) set(task, type, "sched_class", symbol("ext_sched_class").value());
  const bool leads = spec.leader.value() == 0;
  set(task, type, "tgid", leads ? static_cast<std::uint32_t>(spec.pid) : get(spec.leader, type, "tgid"));
  if (leads) {
    const Kva signal = make("signal_struct");
    set(task, type, "signal", signal.value());
    init_list(at(signal, "signal_struct", "thread_head"));
  }
  const Kva signal(get(leads ? task : spec.leader, type, "signal"));
  set(task, type, "signal", signal.value());
  append(at(signal, "signal_struct", "thread_head"), at(task, type, "thread_node"));
  if (spec.in_tree && leads && has_symbol("init_task"))
    append(at(init_task(), type, "tasks"), at(task, type, "tasks"));
  if (!has_scx()) return task;
  set(task, type, "scx.holding_cpu", 0xffffffff);
  set(task, type, "scx.sticky_cpu", 0xffffffff);
  set(task, type, "scx.weight", 100);
  set(task, type, "scx.flags", 0x300);
  if (has(type, "scx.sched")) set(task, type, "scx.sched", root_.value());
  if (spec.on_scx_tasks && has_symbol("scx_tasks"))
    append(symbol("scx_tasks"), at(task, type, "scx.tasks_node"));
  return task;
}

void FakeGuest::make_runnable(Kva task, std::uint32_t cpu, std::uint64_t ms) {
  const char* const type = "task_struct";
  append(at(rq(cpu), "rq", "scx.runnable_list"), at(task, type, "scx.runnable_node"));
  set(task, type, "scx.runnable_at", kJiffies - ms * kHz / 1000);
  set(task, type, "thread_info.cpu", cpu);
  set(task, type, "on_rq", 1);
  set(task, type, "__state", 0);
  set(task, type, "scx.flags", 0x301);
  set(rq(cpu), "rq", "scx.nr_running", get(rq(cpu), "rq", "scx.nr_running") + 1);
}

void FakeGuest::run_on(std::uint32_t cpu, Kva task) {
  set(rq(cpu), "rq", "curr", task.value());
  if (has("rq", "donor")) set(rq(cpu), "rq", "donor", task.value());
  set(task, "task_struct", "on_cpu", 1);
  set(task, "task_struct", "on_rq", 1);
  set(task, "task_struct", "__state", 0);
  set(task, "task_struct", "thread_info.cpu", cpu);
  if (idle_.size() <= cpu || task == idle_[cpu] || !has_scx()) return;
  if (get(task, "task_struct", "sched_class") == symbol("ext_sched_class").value())
    set(rq(cpu), "rq", "scx.nr_running", get(rq(cpu), "rq", "scx.nr_running") + 1);
}

void FakeGuest::set_ops_state(Kva task, std::uint64_t state, std::uint64_t qseq) {
  set(task, "task_struct", "scx.ops_state.counter", qseq << 2 | state);
}

Kva FakeGuest::add_task_cursor() {
  const char* const type = "sched_ext_entity";
  const Kva cursor = make(type);
  append(symbol("scx_tasks"), at(cursor, type, "tasks_node"));
  set(cursor, type, "flags", kTaskCursor);
  return cursor;
}

}  // namespace ktstr::test
