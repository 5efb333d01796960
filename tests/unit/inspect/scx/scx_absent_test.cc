// What a kernel lacks is said, member by member: nothing is left out without a reason.
#include <span>

#include <gtest/gtest.h>

#include "host/inspect/scx/scx_plan.h"
#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

struct Plan {
  explicit Plan(const FakeChanges& changes, Shape shape = Shape::kNewer)
      : bytes(make_fake_types(shape, changes)),
        btf(*Btf::parse(std::as_bytes(std::span(bytes)))),
        types(btf),
        plan(make_scx_plan(types, 4)) {}

  std::string all() const {
    std::string text;
    for (const auto& absence : plan.absent()) text += absence.what() + ": " + absence.reason() + "\n";
    return text;
  }

  std::string bytes;
  Btf btf;
  KernelTypes types;
  ScxPlan plan;
};

// Of the structures of the newest kernels: each one that a walker follows.
constexpr const char* kFollowed[] = {"rq.curr",
                                     "rq.donor",
                                     "rq.idle",
                                     "scx_rq.runnable_list",
                                     "scx_rq.ddsp_deferred_locals",
                                     "scx_rq.deferred_reenq_locals",
                                     "scx_rq.sub_dispatch_prev",
                                     "scx_rq.local_dsq",
                                     "scx_rq.reject_dsq",
                                     "scx_rescue.dsq",
                                     "scx_rescue.curr",
                                     "scx_sched.exit_info",
                                     "scx_sched.exit_kind",
                                     "scx_sched.dsq_hash",
                                     "scx_sched.pnode",
                                     "scx_sched.pcpu",
                                     "scx_sched.children",
                                     "scx_sched.sibling",
                                     "scx_sched.all",
                                     "scx_sched_pnode.global_dsq",
                                     "scx_sched_pcpu.bypass_dsq",
                                     "scx_sched_pcpu.event_stats",
                                     "scx_dispatch_q.list",
                                     "scx_dispatch_q.priq",
                                     "scx_dispatch_q.id",
                                     "scx_dispatch_q.hash_node",
                                     "task_struct.tasks",
                                     "task_struct.thread_node",
                                     "task_struct.signal",
                                     "signal_struct.thread_head",
                                     "task_struct.stack",
                                     "task_struct.thread",
                                     "task_struct.cgroups",
                                     "task_struct.sched_task_group",
                                     "sched_ext_entity.tasks_node",
                                     "sched_ext_entity.runnable_node",
                                     "sched_ext_entity.dsq_list",
                                     "sched_ext_entity.dsq_priq",
                                     "sched_ext_entity.flags",
                                     "scx_dsq_list_node.flags",
                                     "scx_exit_info.bt",
                                     "scx_exit_info.bt_len",
                                     "scx_exit_info.dump",
                                     "scx_dsp_ctx.cursor",
                                     "scx_dsp_ctx.buf",
                                     "scx_dsp_buf_ent.task",
                                     "css_set.dfl_cgrp",
                                     "cgroup.kn",
                                     "kernfs_node.__parent",
                                     "kernfs_node.name"};

TEST(ScxAbsent, EveryMemberThatIsMissingIsNamed) {
  for (const std::string member : kFollowed) {
    const std::size_t dot = member.find('.');
    const std::string sentence =
        "struct " + member.substr(0, dot) + " has no member " + member.substr(dot + 1) + "";
    const std::string said = Plan({.without = {member}}).all();
    EXPECT_NE(said.find(sentence), std::string::npos) << sentence << "\n" << said;
  }
  EXPECT_EQ(Plan({}).all().find("has no member runnable_list"), std::string::npos);
}

TEST(ScxAbsent, DispatchBuffersAreInOnePlaceOrTheOther) {
  const Plan without({.without = {"scx_sched_pcpu.dsp_ctx"}});
  EXPECT_EQ(without.plan.no_dispatch_context, "struct scx_sched_pcpu has no member dsp_ctx");
  FakeGuest legacy{{.shape = Shape::kLegacy, .without = {"scx_dsp_ctx", "event_stats_cpu"}}};
  const v1::Dump dump = legacy.dump();
  EXPECT_EQ(reason_of(dump, "dispatch buffers"), "the kernel has no symbol scx_dsp_ctx");
  EXPECT_EQ(reason_of(dump, "event counters"), "the kernel has no symbol event_stats_cpu");
}

// A list of another kind would be followed to nowhere.
TEST(ScxAbsent, ListsOfAnotherKindAreNotWalked) {
  const Plan other({.as_llist = {"scx_rq.runnable_list", "scx_rq.deferred_reenq_locals",
                                 "scx_dispatch_q.list", "sched_ext_entity.tasks_node"}});
  EXPECT_FALSE(other.plan.rq.runnable_list);
  EXPECT_FALSE(other.plan.rq.deferred_reenq_locals);
  EXPECT_FALSE(other.plan.dsq.list);
  EXPECT_FALSE(other.plan.task.tasks_node);
  EXPECT_TRUE(other.plan.rq.ddsp_deferred_locals);
  const std::string said = other.all();
  for (const char* sentence :
       {"Cpu.runnable_list: rq.scx.runnable_list is struct llist_head, not struct list_head\n",
        "Cpu.deferred_reenq_locals: rq.scx.deferred_reenq_locals is struct llist_head, not struct "
        "list_head\n",
        "Dsq.tasks: scx_dispatch_q.list is struct llist_head, not struct list_head\n"})
    EXPECT_NE(said.find(sentence), std::string::npos) << said;
}

TEST(ScxAbsent, VariablesThatTheKernelDoesNotName) {
  FakeGuest guest{{.without = {"scx_kick_syncs", "scx_locked_rq_state", "direct_dispatch_task",
                               "scx_idle_global_masks", "scx_sched_all", "scx_tasks_lock"}}};
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(reason_of(dump, "Cpu.kick_syncs"),
            "the kernel has no symbol scx_kick_syncs, scx_kick_pseqs, scx_kick_cpus_pnt_seqs");
  EXPECT_NE(reason_of(dump, "Cpu.scx_locked_rq"), "");
  EXPECT_NE(reason_of(dump, "Cpu.direct_dispatch_task"), "");
  EXPECT_EQ(reason_of(dump, "idle masks"), "the kernel has no symbol scx_idle_global_masks, idle_masks");
  EXPECT_NE(reason_of(dump, "idle masks of nodes"), "");
  EXPECT_NE(reason_of(dump, "scx_sched_all"), "");
  EXPECT_NE(reason_of(dump, "ScxGlobals.scx_tasks_lock"), "");
  EXPECT_FALSE(dump.globals().has_idle_cpus());
  EXPECT_FALSE(dump.globals().has_idle_smt());
  // All of it is there in a kernel that names it.
  const v1::Dump whole = FakeGuest().dump();
  for (const char* what : {"Cpu.kick_syncs", "Cpu.scx_locked_rq", "Cpu.direct_dispatch_task", "idle masks",
                           "scx_sched_all", "dispatch buffers", "event counters"})
    EXPECT_EQ(reason_of(whole, what), "");
}

TEST(ScxAbsent, WhatIsNotThereIsNotZero) {
  const v1::Dump legacy = FakeGuest{{.shape = Shape::kLegacy}}.dump();
  EXPECT_TRUE(legacy.cpus(0).has_ddsp_deferred_locals());
  EXPECT_FALSE(legacy.cpus(0).has_deferred_reenq_locals());
  EXPECT_FALSE(legacy.cpus(0).has_cpus_to_sync());
  EXPECT_EQ(reason_of(legacy, "Cpu.deferred_reenq_locals"),
            "struct scx_rq has no member deferred_reenq_locals");
  const v1::Dump newer = FakeGuest{{.shape = Shape::kNewer}}.dump();
  EXPECT_FALSE(newer.cpus(0).has_cpus_to_wait());
  EXPECT_EQ(reason_of(newer, "Cpu.cpus_to_wait"), "struct scx_rq has no member cpus_to_wait");
}

}  // namespace
}  // namespace ktstr::test
