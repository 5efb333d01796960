#include "tests/unit/inspect/scx/fake_types.h"

#include <utility>
#include <vector>

#include "tests/unit/inspect/scx/type_maker.h"

namespace ktstr::test {
namespace {

using Type = TypeMaker::Type;
using Members = std::vector<TypeMaker::Member>;

class FakeTypes {
 public:
  FakeTypes(Shape shape, const FakeChanges& changes) : shape_(shape), changes_(changes) {
    make_.without = changes.without;
  }

  std::string make() {
    basics();
    if (shape_ == Shape::kNoTypes) return make_.btf().bytes();
    if (has_scx()) {
      enums();
      queues();
      entity();
    }
    task();
    rq();
    if (has_scx()) scheduler();
    functions();
    return make_.btf().bytes();
  }

 private:
  bool has_scx() const { return is_new() || shape_ == Shape::kLegacy; }
  bool is_new() const { return shape_ == Shape::kNew || shape_ == Shape::kNewer; }
  bool masks_in_sched() const { return shape_ == Shape::kNewer; }
  // `more` for kernels with struct scx_sched only.
  Members plus_new(Members members, const Members& more) const {
    if (is_new()) members.insert(members.end(), more.begin(), more.end());
    return members;
  }

  void basics() {
    bool_ = make_.integer("_Bool", 1, BTF_INT_BOOL);
    char_ = make_.integer("char", 1);
    u8_ = make_.integer("unsigned char", 1);
    u16_ = make_.integer("short unsigned int", 2);
    s32_ = make_.integer("int", 4, BTF_INT_SIGNED);
    u32_ = make_.integer("unsigned int", 4);
    s64_ = make_.integer("long int", 8, BTF_INT_SIGNED);
    u64_ = make_.integer("long unsigned int", 8);
    pointer_ = make_.pointer();
    text_ = make_.pointer(char_);
    list_ = make_.structure("list_head", {{"next", pointer_}, {"prev", pointer_}});
    llist_ = make_.structure("llist_head", {{"first", pointer_}});
    for (const std::string& member : changes_.as_llist) make_.instead[member] = llist_;
    rb_node_ = make_.structure("rb_node",
                               {{"__rb_parent_color", u64_}, {"rb_right", pointer_}, {"rb_left", pointer_}});
    rb_root_ = make_.structure("rb_root", {{"rb_node", pointer_}});
    atomic_ = make_.structure("", {{"counter", s32_}});
    atomic64_ = make_.structure("", {{"counter", s64_}});
    const Type qspinlock =
        make_.structure("qspinlock", {{"", make_.unite("", {{"val", atomic_}, {"locked", u8_}})}});
    spinlock_ = make_.structure("raw_spinlock", {{"raw_lock", qspinlock}});
    const Type rtmutex = make_.structure("rt_mutex_base", {{"wait_lock", u32_}, {"owner", pointer_}});
    rt_lock_ = make_.structure("rt_spinlock", {{"rtmutex", rtmutex}});
    cpumask_ = make_.structure("cpumask", {{"bits", make_.array(u64_, 1)}});
    mask_pointer_ = make_.pointer(cpumask_);
  }

  void enums() {
    make_.enumeration("scx_ops_state", {{"SCX_OPSS_NONE", 0},
                                        {"SCX_OPSS_QUEUEING", 1},
                                        {"SCX_OPSS_QUEUED", 2},
                                        {"SCX_OPSS_DISPATCHING", 3},
                                        {"SCX_OPSS_QSEQ_SHIFT", 2}});
    make_.enumeration("scx_ent_flags", {{"SCX_TASK_QUEUED", 1},
                                        {"SCX_TASK_STATE_SHIFT", 8},
                                        {"SCX_TASK_STATE_MASK", 0x300},
                                        {"SCX_TASK_CURSOR", std::int64_t{-2147483647} - 1}});
    make_.enumeration("scx_task_state", {{"SCX_TASK_NONE", 0},
                                         {"SCX_TASK_INIT", 1},
                                         {"SCX_TASK_READY", 2},
                                         {"SCX_TASK_ENABLED", 3},
                                         {"SCX_TASK_NR_STATES", 4}});
    make_.enumeration("scx_ent_dsq_flags", {{"SCX_TASK_DSQ_ON_PRIQ", 1}});
    make_.enumeration("scx_dsq_lnode_flags", {{"SCX_DSQ_LNODE_ITER_CURSOR", 1}});
    make_.enumeration("scx_exit_kind", {{"SCX_EXIT_NONE", 0},
                                        {"SCX_EXIT_DONE", 1},
                                        {"SCX_EXIT_UNREG", 64},
                                        {"SCX_EXIT_SYSRQ", 67},
                                        {"SCX_EXIT_ERROR", 1024},
                                        {"SCX_EXIT_ERROR_BPF", 1025},
                                        {"SCX_EXIT_ERROR_STALL", 1026}});
    make_.enumeration("scx_rq_flags", {{"SCX_RQ_ONLINE", 1}, {"SCX_RQ_BAL_KEEP", 8}});
    make_.enumeration64("scx_enq_flags",
                        {{"SCX_ENQ_WAKEUP", 1}, {"SCX_ENQ_CLEAR_OPSS", std::int64_t{1} << 56}});
    phase_ = make_.enumeration("scx_phase", {{"SCX_PHASE_DAWN", 3}, {"SCX_PHASE_DUSK", 9}});
  }

  void queues() {
    const Type hash_head = make_.structure("rhash_head", {{"next", pointer_}});
    hash_head_ = hash_head;
    table_ = make_.structure("rhashtable", {{"tbl", pointer_}, {"key_len", u32_}, {"nelems", atomic_}});
    make_.structure("bucket_table", {{"size", u32_},
                                     {"nest", u32_},
                                     {"hash_rnd", u32_},
                                     {"future_tbl", pointer_},
                                     {"buckets", make_.array(pointer_, 0)}});
    queue_ = make_.structure(
        "scx_dispatch_q",
        plus_new({{"lock", is_new() ? spinlock_ : rt_lock_},
                  {"list", list_},
                  {"priq", rb_root_},
                  {"nr", u32_},
                  {"seq", u32_},
                  {"id", u64_},
                  {"hash_node", hash_head}},
                 {{"first_task", pointer_}, {"sched", pointer_}, {"novelty", u32_}, {"phase", phase_}}));
    const Type entry = make_.structure(
        "scx_dsp_buf_ent", {{"task", pointer_}, {"qseq", u64_}, {"dsq_id", u64_}, {"enq_flags", u64_}});
    context_ = make_.structure(
        "scx_dsp_ctx",
        {{"rq", pointer_}, {"cursor", u32_}, {"nr_tasks", u32_}, {"buf", make_.array(entry, 0)}});
  }

  void entity() {
    const Type node =
        make_.structure("scx_dsq_list_node", {{"node", list_}, {"flags", u32_}, {"priv", u32_}});
    const Type tasks = make_.array(pointer_, 2);
    entity_ =
        make_.structure("sched_ext_entity",
                        plus_new({{"dsq", pointer_},        {"dsq_list", node},    {"dsq_priq", rb_node_},
                                  {"dsq_seq", u32_},        {"dsq_flags", u32_},   {"flags", u32_},
                                  {"weight", u32_},         {"sticky_cpu", s32_},  {"holding_cpu", s32_},
                                  {"kf_mask", u32_},        {"kf_tasks", tasks},   {"ops_state", atomic64_},
                                  {"runnable_node", list_}, {"runnable_at", u64_}, {"ddsp_dsq_id", u64_},
                                  {"ddsp_enq_flags", u64_}, {"slice", u64_},       {"dsq_vtime", u64_},
                                  {"disallow", bool_},      {"tasks_node", list_}},
                                 {{"sched", pointer_},
                                  {"selected_cpu", s32_},
                                  {"tid", u64_},
                                  {"novelty", s32_},
                                  {"new_node", list_}}));
  }

  void task() {
    const Type info = make_.structure("thread_info", {{"flags", u64_}, {"cpu", u32_}});
    const Type se = make_.structure("sched_entity", {{"sum_exec_runtime", u64_}});
    const Type sched_info = make_.structure("sched_info", {{"run_delay", u64_}, {"last_queued", u64_}});
    const Type thread = make_.structure("thread_struct", {{"sp", u64_}});
    make_.structure("signal_struct", {{"live", atomic_}, {"thread_head", list_}});
    make_.structure("css_set", {{"subsys", pointer_}, {"dfl_cgrp", pointer_}});
    make_.structure("cgroup", {{"flags", u64_}, {"kn", pointer_}});
    make_.structure("kernfs_node", {{"count", atomic_}, {"__parent", pointer_}, {"name", text_}});
    task_group();
    make_.unite("thread_union", {{"stack", make_.array(u64_, 512)}});
    Members members = {{"thread_info", info},
                       {"__state", u32_},
                       {"stack", pointer_},
                       {"flags", u32_},
                       {"on_cpu", u8_},
                       {"on_rq", u8_},
                       {"wake_cpu", s32_},
                       {"recent_used_cpu", s32_},
                       {"prio", s32_},
                       {"static_prio", s32_},
                       {"rt_priority", u32_},
                       {"policy", u32_},
                       {"sched_class", pointer_},
                       {"se", se},
                       {"nr_cpus_allowed", s32_},
                       {"cpus_mask", cpumask_},
                       {"migration_disabled", u16_}};
    if (has_scx()) members.push_back({"scx", entity_});
    const Members more = {{"sched_info", sched_info},
                          {"tasks", list_},
                          {"exit_state", s32_},
                          {"pid", s32_},
                          {"tgid", s32_},
                          {"thread_node", list_},
                          {"signal", pointer_},
                          {"nvcsw", u64_},
                          {"nivcsw", u64_},
                          {"comm", make_.array(char_, 16)},
                          {"cgroups", pointer_},
                          {"sched_task_group", pointer_},
                          {"thread", thread}};
    members.insert(members.end(), more.begin(), more.end());
    make_.structure("task_struct", members);
  }

  void task_group() {
    if (!is_new()) {
      make_.structure("task_group", {{"shares", u64_}, {"scx_flags", u32_}, {"scx_weight", u32_}});
      return;
    }
    const Type scx = make_.structure("scx_task_group", {{"sched", pointer_},
                                                        {"flags", u32_},
                                                        {"weight", u32_},
                                                        {"bw_period_us", u64_},
                                                        {"bw_quota_us", u64_},
                                                        {"bw_burst_us", u64_},
                                                        {"idle", bool_},
                                                        {"novelty", u32_}});
    make_.structure("task_group", {{"shares", u64_}, {"scx", scx}});
  }

  void rq() {
    const Type cfs =
        make_.structure("cfs_rq", {{"load", u64_}, {is_new() ? "h_nr_queued" : "h_nr_running", u32_}});
    Members members = {{"__lock", spinlock_}, {"nr_running", u32_},   {"nr_switches", u64_},
                       {"curr", pointer_},    {"idle", pointer_},     {"clock", u64_},
                       {"cfs", cfs},          {"nr_iowait", atomic_}, {"online", s32_},
                       {"cpu", s32_}};
    if (is_new()) {
      members.push_back({"donor", pointer_});
      members.push_back({"next_class", pointer_});
      members.push_back({"core_cookie", u64_});
    }
    if (has_scx()) members.push_back({"scx", scx_rq()});
    const Type type = make_.structure("rq", members);
    make_.btf().variable("runqueues", type.id);
  }

  Members kick_masks() const {
    return {{"cpus_to_kick", mask_pointer_},
            {"cpus_to_kick_if_idle", mask_pointer_},
            {"cpus_to_preempt", mask_pointer_},
            {"cpus_to_wait", mask_pointer_}};
  }

  Type scx_rq() {
    Members members = {{"local_dsq", queue_},   {"runnable_list", list_}, {"ddsp_deferred_locals", list_},
                       {"ops_qseq", u64_},      {"nr_running", u32_},     {"cpuperf_target", u32_},
                       {"cpu_released", bool_}, {"flags", u32_}};
    const Members masks = masks_in_sched() ? Members() : kick_masks();
    members.insert(members.end(), masks.begin(), masks.end());
    if (!is_new()) {
      members.push_back({"pnt_seq", u64_});
      return make_.structure("scx_rq", members);
    }
    const Type rescue =
        make_.structure("scx_rescue", {{"dsq", queue_}, {"budget", s64_}, {"curr", pointer_}});
    return make_.structure("scx_rq", plus_new(std::move(members), {{"kick_sync", u64_},
                                                                   {"clock", u64_},
                                                                   {"nr_immed", u32_},
                                                                   {"in_select_cpu", bool_},
                                                                   {"reject_dsq", queue_},
                                                                   {"rescue", rescue},
                                                                   {"sub_dispatch_prev", pointer_},
                                                                   {"deferred_reenq_locals", list_},
                                                                   {"novelty", u32_}}));
  }

  void scheduler() {
    const Type function = make_.pointer();
    const Type ops =
        make_.structure("sched_ext_ops", plus_new({{"select_cpu", function},
                                                   {"enqueue", function},
                                                   {"dispatch", function},
                                                   {"dispatch_max_batch", u32_},
                                                   {"flags", u64_},
                                                   {"timeout_ms", u32_},
                                                   {"exit_dump_len", u32_},
                                                   {"hotplug_seq", u64_},
                                                   {"name", make_.array(char_, 128)},
                                                   {"priv", pointer_}},
                                                  {{"sub_cgroup_id", u64_}, {"novelty_us", u32_}}));
    make_.structure("scx_exit_info", plus_new({{"kind", s32_},
                                               {"exit_code", s64_},
                                               {"reason", text_},
                                               {"bt", make_.pointer(u64_)},
                                               {"bt_len", u32_},
                                               {"msg", text_},
                                               {"dump", text_}},
                                              {{"exit_cpu", s32_}, {"flags", u64_}, {"novelty", u32_}}));
    const Type events = make_.structure("scx_event_stats", {{"SCX_EV_SELECT_CPU_FALLBACK", s64_},
                                                            {"SCX_EV_DISPATCH_KEEP_LAST", s64_},
                                                            {"SCX_EV_FROM_TOMORROW", s64_}});
    make_.structure("scx_idle_cpus", {{"cpu", mask_pointer_}, {"smt", mask_pointer_}});
    if (!is_new()) return;
    make_.structure("scx_kick_syncs", {{"rcu", list_}, {"syncs", make_.array(u64_, 0)}});
    make_.structure("scx_sched_pnode", {{"pad", u64_}, {"global_dsq", queue_}});
    Members per_cpu = {{"sch", pointer_},      {"flags", u64_},           {"event_stats", events},
                       {"bypass_dsq", queue_}, {"bypass_host_seq", u32_}, {"novelty", u32_}};
    const Members masks = masks_in_sched() ? kick_masks() : Members();
    per_cpu.insert(per_cpu.end(), masks.begin(), masks.end());
    per_cpu.push_back({"dsp_ctx", context_});
    make_.structure("scx_sched_pcpu", per_cpu);
    make_.structure("scx_sched", {{"ops", ops},
                                  {"dsq_hash", table_},
                                  {"pnode", pointer_},
                                  {"pcpu", pointer_},
                                  {"slice_dfl", u64_},
                                  {"bypass_depth", s32_},
                                  {"aborting", bool_},
                                  {"warned_zero_slice", bool_, 1},
                                  {"warned_deprecated", bool_, 1},
                                  {"level", s32_},
                                  {"all", list_},
                                  {"children", list_},
                                  {"sibling", list_},
                                  {"cgrp_path", text_},
                                  {"sub_attached", bool_},
                                  {"watchdog_timeout", u64_},
                                  {"exit_kind", atomic_},
                                  {"exit_info", pointer_},
                                  {"phase", phase_},
                                  {"novelty", s64_},
                                  {"has_op", make_.array(u64_, 2)},
                                  {"stall_cpus", mask_pointer_},
                                  {"odd_cpus", mask_pointer_},
                                  {"even_cpus", cpumask_},
                                  {"nested", make_.structure("", {{"inner", u16_}})},
                                  {"ancestors", make_.array(pointer_, 0)}});
  }

  void functions() {
    if (is_new())
      make_.btf().function("scx_vexit", {{"sch", pointer_.id},
                                         {"kind", s32_.id},
                                         {"exit_code", s64_.id},
                                         {"fmt", pointer_.id},
                                         {"args", pointer_.id}});
    if (shape_ == Shape::kLegacy)
      make_.btf().function("scx_ops_exit_kind", {{"kind", s32_.id}, {"exit_code", s64_.id}});
  }

  Shape shape_;
  const FakeChanges& changes_;
  TypeMaker make_;
  Type bool_, char_, u8_, u16_, s32_, u32_, s64_, u64_, pointer_, text_;
  Type list_, llist_, rb_node_, rb_root_, atomic_, atomic64_, spinlock_, rt_lock_, cpumask_, mask_pointer_;
  Type phase_, hash_head_, table_, queue_, context_, entity_;
};

}  // namespace

std::string make_fake_types(Shape shape) {
  return make_fake_types(shape, {});
}

std::string make_fake_types(Shape shape, const FakeChanges& changes) {
  return FakeTypes(shape, changes).make();
}

}  // namespace ktstr::test
