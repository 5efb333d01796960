// Guests that lack something: each pass gates itself, and says why.
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

// Something of everything.
void populate(FakeGuest& guest) {
  guest.run_on(1, guest.add_task({.pid = 1, .comm = "runs"}));
  for (std::int32_t pid = 2; pid < 6; ++pid) {
    const Kva task = guest.add_task({.pid = pid, .comm = "waits"});
    guest.make_runnable(task, static_cast<std::uint32_t>(pid) % 4, 100 * static_cast<std::uint64_t>(pid));
    if (pid % 2 == 0)
      guest.queue(guest.local_dsq(2), task);
    else
      guest.set_ops_state(task, 2, 7);
  }
  guest.queue_vtime(guest.add_user_dsq(5),
                    {guest.add_task({.pid = 7, .comm = "v"}), guest.add_task({.pid = 8, .comm = "v"})});
  guest.queue(guest.global_dsq(0), guest.add_task({.pid = 9, .comm = "g"}));
  guest.fail_sched(guest.root(), 1025, "error", "from BPF");
  const Kva sleeper = guest.add_task({.pid = 10, .comm = "sleeps"});
  const Kva stack = guest.alloc(FakeGuest::kStack, FakeGuest::kStack);
  guest.set(sleeper, "task_struct", "stack", stack.value());
  guest.set(sleeper, "task_struct", "thread.sp", (stack + 3000).value() & ~std::uint64_t{15});
}

// What is read from the copies equals what is read from the guest.
void expect_complete(FakeGuest& guest) {
  const v1::Dump copies = guest.dump(true);
  const v1::Dump live = guest.dump(false);
  google::protobuf::util::MessageDifferencer differencer;
  std::string difference;
  differencer.ReportDifferencesToString(&difference);
  EXPECT_TRUE(differencer.Compare(live, copies)) << difference;
}

TEST(ScxComplete, NewShape) {
  FakeGuest guest{{.nodes = 3}};
  populate(guest);
  guest.add_sched("sub", guest.add_sched("a", guest.root()));
  expect_complete(guest);
  EXPECT_EQ(faults_of(guest.dump()), "");
  // Whole pages of detail, so that the comparison means something.
  EXPECT_GT(guest.dump().ByteSizeLong(), 10'000u);
}

TEST(ScxComplete, LegacyShape) {
  FakeGuest guest{{.shape = Shape::kLegacy}};
  populate(guest);
  expect_complete(guest);
  EXPECT_EQ(faults_of(guest.dump()), "");
}

TEST(ScxComplete, Degraded) {
  for (const Shape shape : {Shape::kNew, Shape::kLegacy, Shape::kNoScx, Shape::kNoTypes}) {
    FakeGuest bare{{.shape = shape, .per_cpu = false}};
    expect_complete(bare);
    FakeGuest guest{{.shape = shape}};
    expect_complete(guest);
  }
}

TEST(ScxComplete, WhatWasNotCapturedIsAFault) {
  FakeGuest guest;
  const Kva task = guest.add_task({.pid = 1, .comm = "x"});
  CapturedMemory copies;
  guest.capture(copies);
  copies.seal();
  ReadBudget budget(1 << 20, 1000);
  EXPECT_TRUE(copies.read<std::uint32_t>(guest.at(task, "task_struct", "pid"), budget));
  // The reader of the message: read it.
  const auto other = copies.read<std::uint64_t>(guest.alloc(8), budget);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().kind, Fault::Kind::kNotCaptured);
  // A walk that finds more than was copied.
  CapturedMemory none;
  ASSERT_TRUE(none.prepare(0));
  none.seal();
  CapturedMemory scratch;
  const ScxObjects objects = guest.capture(scratch);
  const v1::Dump dump = inspect_scx(guest.plan(), guest.kernel(), none, objects, guest.input());
  EXPECT_GT(dump.header().faults(), 0u);
  EXPECT_NE(faults_of(dump).find("was not copied"), std::string::npos) << faults_of(dump);
}

// ---------------------------------------------------------------------------------------------------------------------
// Degraded cases (what a freeze in early boot, or another kernel, leaves to be read)

TEST(ScxDegraded, NoPerCpuAreas) {
  FakeGuest guest{{.per_cpu = false}};
  guest.add_task({.pid = 5, .comm = "here"});
  guest.queue(guest.add_user_dsq(3), guest.add_task({.pid = 6, .comm = "queued"}));
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size(), 0);
  EXPECT_EQ(reason_of(dump, "CPUs"), "the kernel has not set up its per-CPU areas");
  EXPECT_EQ(task_of(dump, 5).comm(), "here");
  EXPECT_EQ(dump.scheds_size(), 1);
  EXPECT_EQ(pids_of(dsq_of(dump, "user DSQ 0x3")), std::vector<std::int32_t>{6});
  EXPECT_EQ(faults_of(dump), "");
}

TEST(ScxDegraded, NoRootSymbol) {
  FakeGuest guest{{.without = {"scx_root"}}};
  populate(guest);
  v1::Dump dump = guest.dump();
  EXPECT_EQ(reason_of(dump, "scx_root"), "the kernel has no symbol scx_root");
  EXPECT_EQ(dump.cpus_size(), 4);
  EXPECT_EQ(pids_of(dsq_of(dump, "local DSQ of CPU 2")), (std::vector<std::int32_t>{2, 4}));
  EXPECT_EQ(task_of(dump, 10).comm(), "sleeps");
  // The list of all schedulers leads to it all the same.
  EXPECT_EQ(dump.scheds_size(), 1);
  FakeGuest neither{{.without = {"scx_root", "scx_sched_all"}}};
  dump = neither.dump();
  EXPECT_EQ(dump.scheds_size(), 0);
  EXPECT_EQ(dump.cpus_size(), 4);
}

TEST(ScxDegraded, NoSchedulerAttached) {
  FakeGuest guest{{.without = {"scx_sched_all"}}};
  guest.write(guest.symbol("scx_root"), std::uint64_t{0});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.scheds_size(), 0);
  EXPECT_EQ(reason_of(dump, "schedulers"), "scx_root is NULL: no scheduler is attached");
  EXPECT_EQ(faults_of(dump), "");
}

TEST(ScxDegraded, NoListOfTasks) {
  FakeGuest guest{{.without = {"scx_tasks"}}};
  guest.add_task({.pid = 5, .comm = "here"});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(reason_of(dump, "scx_tasks"), "the kernel has no symbol scx_tasks");
  EXPECT_EQ(task_of(dump, 5).comm(), "here");
  EXPECT_TRUE(findings_of(dump, "task-lists").empty());
  FakeGuest treeless{{.without = {"init_task"}}};
  treeless.add_task({.pid = 6, .comm = "there"});
  EXPECT_EQ(task_of(treeless.dump(), 6).comm(), "there");
  EXPECT_EQ(reason_of(treeless.dump(), "the task tree"), "the kernel has no symbol init_task");
}

TEST(ScxDegraded, BothSymbolsMissing) {
  FakeGuest guest{{.cpus = 2, .without = {"scx_root", "scx_tasks", "scx_sched_all"}}};
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size(), 2);
  EXPECT_EQ(dump.scheds_size(), 0);
  EXPECT_NE(reason_of(dump, "scx_root"), "");
  EXPECT_NE(reason_of(dump, "scx_tasks"), "");
}

TEST(ScxDegraded, Legacy) {
  FakeGuest guest{{.shape = Shape::kLegacy}};
  populate(guest);
  guest.write(guest.symbol("scx_ops_bypass_depth"), 1);
  guest.write(guest.symbol("scx_ops_enable_state_var"), 2);
  const std::uint64_t context = guest.alloc_per_cpu(128);
  guest.write(guest.symbol("scx_dsp_ctx"), context);
  guest.write(guest.per_cpu(context, 3) + 8, std::uint32_t{1});
  guest.write(guest.per_cpu(context, 3) + 16 + 16, std::uint64_t{0x99});
  guest.write(guest.per_cpu(guest.symbol("event_stats_cpu").value(), 2), std::int64_t{6});
  const v1::Dump dump = guest.dump();
  ASSERT_EQ(dump.scheds_size(), 1);
  const v1::Sched& sched = dump.scheds(0);
  EXPECT_EQ(sched.name(), "fake");
  EXPECT_EQ(sched.exit_kind_name(), "SCX_EXIT_ERROR_BPF");
  EXPECT_EQ(sched.exit_info().msg(), "from BPF");
  EXPECT_EQ(sched.events().at("SCX_EV_SELECT_CPU_FALLBACK"), 6u);
  EXPECT_EQ(sched.watchdog_timeout(), 5 * FakeGuest::kHz);
  ASSERT_EQ(sched.callbacks_size(), 1);
  EXPECT_EQ(sched.callbacks(0), "enqueue");
  EXPECT_EQ(pids_of(dsq_of(dump, "user DSQ 0x5")), (std::vector<std::int32_t>{7, 8}));
  EXPECT_EQ(pids_of(dsq_of(dump, "global DSQ of node 0")), std::vector<std::int32_t>{9});
  EXPECT_EQ(dump.globals().scx_bypass_depth(), 1);
  EXPECT_EQ(access_of(dump, "ScxGlobals.scx_bypass_depth"), "scx_ops_bypass_depth");
  EXPECT_EQ(access_of(dump, "Dsq.lock"), "scx_dispatch_q.lock.rtmutex.owner");
  EXPECT_EQ(access_of(dump, "Cpu.cfs_nr_running"), "rq.cfs.h_nr_running");
  EXPECT_EQ(findings_of(dump, "bypass").size(), 1u);
  ASSERT_EQ(dump.cpus(3).dispatch_buffer_size(), 1);
  EXPECT_EQ(dump.cpus(3).dispatch_buffer(0).dsq_id(), 0x99u);
  EXPECT_EQ(dump.cpus(2).dispatch_buffer_size(), 0);
  EXPECT_EQ(reason_of(dump, "SchedCpu"), "the kernel has no struct scx_sched_pcpu");
  EXPECT_EQ(reason_of(dump, "Task.tid"), "struct sched_ext_entity has no member tid");
  EXPECT_EQ(faults_of(dump), "");
}

TEST(ScxDegraded, NoSchedExt) {
  FakeGuest guest{{.shape = Shape::kNoScx}};
  guest.set(guest.rq(2), "rq", "nr_running", 3);
  guest.add_task({.pid = 5, .comm = "plain"});
  const v1::Dump dump = guest.dump();
  ASSERT_EQ(dump.cpus_size(), 4);
  EXPECT_EQ(dump.cpus(2).rq_nr_running(), 3u);
  EXPECT_EQ(dump.cpus(2).curr().comm(), "swapper/2");
  EXPECT_TRUE(dump.cpus(2).idle());
  EXPECT_FALSE(dump.cpus(2).has_nr_running());
  EXPECT_EQ(task_of(dump, 5).comm(), "plain");
  EXPECT_EQ(dump.dsqs_size(), 0);
  EXPECT_EQ(dump.scheds_size(), 0);
  EXPECT_EQ(reason_of(dump, "Dsq"), "the kernel has no struct scx_dispatch_q");
  EXPECT_NE(reason_of(dump, "schedulers"), "");
  EXPECT_EQ(reason_of(dump, "Cpu.nr_running"), "struct rq has no member scx");
  EXPECT_EQ(faults_of(dump), "");
}

TEST(ScxDegraded, Nothing) {
  FakeGuest guest{{.shape = Shape::kNoTypes,
                   .without = {"nr_cpu_ids", "__per_cpu_offset", "init_task", "jiffies_64"},
                   .per_cpu = false}};
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.cpus_size() + dump.tasks_size() + dump.dsqs_size() + dump.scheds_size(), 0);
  EXPECT_EQ(reason_of(dump, "Cpu"), "the kernel has no struct rq");
  EXPECT_EQ(reason_of(dump, "Task"), "the kernel has no struct task_struct");
  EXPECT_NE(reason_of(dump, "schedulers"), "");
  EXPECT_NE(reason_of(dump, "the task tree"), "");
  EXPECT_EQ(dump.header().faults(), 0u);
}

TEST(ScxDegraded, HoleAmongTheCpus) {
  FakeGuest guest;
  guest.write(guest.symbol("__per_cpu_offset") + 8, std::uint64_t{0});
  ReadBudget budget(1 << 16, 100);
  ASSERT_TRUE(guest.kernel().load_per_cpu_offsets({guest.types(), guest.memory(), budget}));
  const v1::Dump dump = guest.dump();
  ASSERT_EQ(dump.cpus_size(), 3);
  EXPECT_EQ(dump.cpus(1).cpu(), 2u);
  ASSERT_EQ(dump.scheds(0).cpus_size(), 3);
  EXPECT_EQ(dump.scheds(0).cpus(1).cpu(), 2u);
  EXPECT_EQ(dump.header().nr_cpu_ids(), 4u);
}

}  // namespace
}  // namespace ktstr::test
