// Tasks: where each one is, where it was found, what is shown of it.
#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

using v1::Task;

std::vector<std::string> found_on(const Task& task) {
  return {task.found_on().begin(), task.found_on().end()};
}

TEST(ScxTasks, OneInEachGroup) {
  FakeGuest guest;
  const auto task = [&](std::int32_t pid) { return guest.add_task({.pid = pid, .comm = "t"}); };
  guest.run_on(1, task(1));
  const Kva queued = task(2);
  guest.make_runnable(queued, 0, 40);
  guest.queue(guest.add_user_dsq(7), queued);
  const Kva owned = task(3);
  guest.make_runnable(owned, 0, 80);
  guest.set_ops_state(owned, 2, 99);
  const Kva queueing = task(4);
  guest.make_runnable(queueing, 0, 1000);
  guest.set_ops_state(queueing, 1);
  const Kva moving = task(5);
  guest.make_runnable(moving, 0, 1);
  guest.set(moving, "task_struct", "scx.holding_cpu", 2);
  task(6);
  const Kva exiting = task(7);
  guest.set(exiting, "task_struct", "flags", 4);
  const Kva fair = task(8);
  guest.set(fair, "task_struct", "sched_class", guest.symbol("fair_sched_class").value());
  guest.set(fair, "task_struct", "on_rq", 1);
  const Kva zombie = task(9);
  guest.set(zombie, "task_struct", "exit_state", 0x20);
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(task_of(dump, 1).where(), Task::RUNNING);
  EXPECT_EQ(task_of(dump, 2).where(), Task::ON_DSQ);
  EXPECT_EQ(task_of(dump, 3).where(), Task::OWNED_BY_BPF);
  EXPECT_EQ(task_of(dump, 4).where(), Task::IN_TRANSIT);
  EXPECT_EQ(task_of(dump, 5).where(), Task::IN_TRANSIT);
  EXPECT_EQ(task_of(dump, 6).where(), Task::SLEEPING);
  EXPECT_EQ(task_of(dump, 7).where(), Task::EXITING);
  EXPECT_EQ(task_of(dump, 8).where(), Task::RUNNABLE_OTHER_CLASS);
  EXPECT_EQ(task_of(dump, 9).where(), Task::EXITING);
  EXPECT_EQ(task_of(dump, 2).dsq_name(), "user DSQ 0x7");
  EXPECT_EQ(task_of(dump, 2).dsq_id(), 7u);
  EXPECT_EQ(task_of(dump, 2).waiting_ms(), 40);
  EXPECT_EQ(task_of(dump, 3).ops_state_name(), "QUEUED");
  EXPECT_EQ(task_of(dump, 3).ops_state_qseq(), 99u);
  EXPECT_EQ(task_of(dump, 4).ops_state_name(), "QUEUEING");
  EXPECT_FALSE(task_of(dump, 1).has_waiting_ms());
  EXPECT_FALSE(task_of(dump, 6).has_waiting_ms());
  EXPECT_EQ(task_of(dump, 6).scx_state_name(), "ENABLED");
  EXPECT_EQ(task_of(dump, 6).state_char(), "S");
  EXPECT_EQ(task_of(dump, 9).state_char(), "Z");
  EXPECT_EQ(task_of(dump, 2).state_char(), "R");
  EXPECT_EQ(task_of(dump, 1).cpus_mask(), "0-3");
  EXPECT_EQ(task_of(dump, 8).sched_class(), "fair_sched_class");
  EXPECT_EQ(dump.cpus(1).curr().pid(), 1);
  EXPECT_EQ(dump.cpus(1).curr_class(), "ext_sched_class");
  EXPECT_FALSE(dump.cpus(1).idle());
  EXPECT_TRUE(dump.cpus(2).idle());
  EXPECT_EQ(dump.cpus(0).runnable_list_size(), 4);
  EXPECT_EQ(found_on(task_of(dump, 2)),
            (std::vector<std::string>{"scx_tasks", "task tree", "runnable_list of CPU 0", "user DSQ 0x7"}));
  EXPECT_EQ(found_on(task_of(dump, 1)),
            (std::vector<std::string>{"scx_tasks", "task tree", "curr of CPU 1"}));
  EXPECT_EQ(faults_of(dump), "");
}

TEST(ScxTasks, StatesAsPsShowsThem) {
  FakeGuest guest;
  const std::vector<std::pair<std::uint32_t, std::string>> states = {
      {0, "R"}, {1, "S"}, {2, "D"}, {4, "T"}, {8, "t"}, {0x402, "I"}, {0x1000, "D"}, {0x40, "P"}};
  for (std::size_t i = 0; i < states.size(); ++i)
    guest.set(guest.add_task({.pid = static_cast<std::int32_t>(i + 1), .comm = "s"}), "task_struct",
              "__state", states[i].first);
  const v1::Dump dump = guest.dump();
  for (std::size_t i = 0; i < states.size(); ++i)
    EXPECT_EQ(task_of(dump, static_cast<std::int32_t>(i + 1)).state_char(), states[i].second)
        << states[i].first;
}

TEST(ScxTasks, CursorsOnScxTasksAreSkipped) {
  FakeGuest guest;
  const int before = guest.dump().tasks_size();
  guest.add_task_cursor();
  guest.add_task({.pid = 3, .comm = "x"});
  guest.add_task_cursor();
  EXPECT_EQ(guest.dump().tasks_size(), before + 1);
}

TEST(ScxTasks, ThreadsAreFoundByTheTree) {
  FakeGuest guest;
  const Kva leader = guest.add_task({.pid = 10, .comm = "main", .on_scx_tasks = false});
  guest.add_task({.pid = 11, .comm = "worker", .leader = leader, .on_scx_tasks = false});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(task_of(dump, 11).tgid(), 10);
  EXPECT_EQ(found_on(task_of(dump, 11)), std::vector<std::string>{"task tree"});
}

TEST(ScxTasks, ListsThatLackSomebody) {
  FakeGuest guest;
  guest.add_task({.pid = 20, .comm = "zombie", .on_scx_tasks = false});
  guest.add_task({.pid = 21, .comm = "gone", .in_tree = false});
  const Kva lost = guest.add_task({.pid = 22, .comm = "lost", .on_scx_tasks = false, .in_tree = false});
  guest.queue(guest.local_dsq(0), lost);
  const auto findings = findings_of(guest.dump(), "task-lists");
  ASSERT_EQ(findings.size(), 3u);
  EXPECT_EQ(findings[0].text(), "lost[22] is on neither scx_tasks nor the task tree");
  EXPECT_EQ(findings[0].severity(), v1::DumpFinding::WARNING);
  EXPECT_NE(findings[1].text().find("on scx_tasks but not on the task tree"), std::string::npos);
  EXPECT_NE(findings[1].text().find("gone[21]"), std::string::npos) << findings[1].text();
  EXPECT_NE(findings[2].text().find("on the task tree but not on scx_tasks"), std::string::npos);
  EXPECT_NE(findings[2].text().find("zombie[20]"), std::string::npos);
}

TEST(ScxTasks, Cgroups) {
  FakeGuest guest;
  const auto node = [&](std::string_view name, Kva parent) {
    const Kva made = guest.make("kernfs_node");
    guest.set(made, "kernfs_node", "name", guest.text(name).value());
    guest.set(made, "kernfs_node", "__parent", parent.value());
    return made;
  };
  const Kva root = node("", Kva());
  const Kva leaf = node("b", node("a", root));
  const auto put_in = [&](Kva task, Kva kernfs) {
    const Kva cgroup = guest.make("cgroup");
    guest.set(cgroup, "cgroup", "kn", kernfs.value());
    const Kva set = guest.make("css_set");
    guest.set(set, "css_set", "dfl_cgrp", cgroup.value());
    guest.set(task, "task_struct", "cgroups", set.value());
  };
  put_in(guest.add_task({.pid = 1, .comm = "deep"}), leaf);
  put_in(guest.add_task({.pid = 2, .comm = "top"}), root);
  // Two nodes that are each other's parents.
  const Kva one = node("one", root);
  const Kva two = node("two", one);
  guest.set(one, "kernfs_node", "__parent", two.value());
  put_in(guest.add_task({.pid = 3, .comm = "loop"}), two);
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(task_of(dump, 1).cgroup(), "/a/b");
  EXPECT_EQ(task_of(dump, 2).cgroup(), "/");
  EXPECT_LT(task_of(dump, 3).cgroup().size(), 300u);
}

TEST(ScxTasks, UnknownMembersAndFlagNames) {
  FakeGuest guest;
  const Kva task = guest.add_task({.pid = 1, .comm = "x"});
  guest.set(task, "task_struct", "scx.novelty", 0xfffffffe);
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(other_of(task_of(dump, 1), "scx.novelty"), "-2");
  EXPECT_EQ(other_of(task_of(dump, 1), "scx.new_node"), "empty");
  EXPECT_EQ(other_of(task_of(dump, 1), "scx.slice"), "");  // has a field
  bool enq_flags = false;
  for (const auto& table : dump.enums()) {
    if (table.enum_names() != "scx_enq_flags") continue;
    enq_flags = true;
    ASSERT_EQ(table.constants_size(), 2);
    EXPECT_EQ(table.constants(1).value(), std::uint64_t{1} << 56);
  }
  EXPECT_TRUE(enq_flags);
}

TEST(ScxTasks, TaskGroups) {
  FakeGuest guest;
  const Kva group = guest.make("task_group");
  guest.set(group, "task_group", "scx.weight", 250);
  guest.set(group, "task_group", "scx.bw_quota_us", 7000);
  guest.set(group, "task_group", "scx.idle", 1);
  guest.set(group, "task_group", "scx.novelty", 4);
  for (int pid = 1; pid < 4; ++pid)
    guest.set(guest.add_task({.pid = pid, .comm = "t"}), "task_struct", "sched_task_group", group.value());
  const v1::Dump dump = guest.dump();
  ASSERT_EQ(dump.task_groups_size(), 1);
  EXPECT_EQ(dump.task_groups(0).address(), group.value());
  EXPECT_EQ(dump.task_groups(0).weight(), 250u);
  EXPECT_EQ(dump.task_groups(0).bw_quota_us(), 7000u);
  EXPECT_TRUE(dump.task_groups(0).idle());
  EXPECT_EQ(other_of(dump.task_groups(0), "scx.novelty"), "4");
  FakeGuest legacy{{.shape = Shape::kLegacy}};
  const Kva old = legacy.make("task_group");
  legacy.set(old, "task_group", "scx_weight", 30);
  legacy.set(legacy.add_task({.pid = 1, .comm = "t"}), "task_struct", "sched_task_group", old.value());
  const v1::Dump before = legacy.dump();
  ASSERT_EQ(before.task_groups_size(), 1);
  EXPECT_EQ(before.task_groups(0).weight(), 30u);
  EXPECT_FALSE(before.task_groups(0).has_idle());
  EXPECT_EQ(reason_of(before, "TaskGroup.idle"), "struct task_group has no member scx");
  EXPECT_EQ(faults_of(before), "");
}

TEST(ScxTasks, DispatchBuffers) {
  FakeGuest guest;
  const Kva task = guest.add_task({.pid = 31, .comm = "buffered", .on_scx_tasks = false, .in_tree = false});
  const Kva context = guest.at(guest.sched_cpu(guest.root(), 2), "scx_sched_pcpu", "dsp_ctx");
  guest.set(context, "scx_dsp_ctx", "cursor", 1);
  const Kva entry = context + 16;
  guest.set(entry, "scx_dsp_buf_ent", "task", task.value());
  guest.set(entry, "scx_dsp_buf_ent", "qseq", 5);
  guest.set(entry, "scx_dsp_buf_ent", "dsq_id", 0x42);
  const v1::Dump dump = guest.dump();
  const v1::Sched& sched = sched_of(dump, "fake");
  ASSERT_EQ(sched.cpus_size(), 4);
  ASSERT_EQ(sched.cpus(2).dispatch_buffer_size(), 1);
  EXPECT_EQ(sched.cpus(2).dispatch_buffer(0).pid(), 31);
  EXPECT_EQ(sched.cpus(2).dispatch_buffer(0).comm(), "buffered");
  EXPECT_EQ(sched.cpus(2).dispatch_buffer(0).dsq_id(), 0x42u);
  EXPECT_EQ(sched.cpus(2).dispatch_buffer(0).qseq(), 5u);
  EXPECT_EQ(found_on(task_of(dump, 31)), std::vector<std::string>{"a dispatch buffer"});
}

}  // namespace
}  // namespace ktstr::test
