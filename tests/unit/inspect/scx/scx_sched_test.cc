// Schedulers: the tree, exit information, events, what each has on its CPUs; globals.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

TEST(ScxSched, TheRoot) {
  FakeGuest guest;
  guest.set(guest.root(), "scx_sched", "ops.flags", 0x21);
  guest.set(guest.root(), "scx_sched", "ops.timeout_ms", 5000);
  guest.set(guest.root(), "scx_sched", "ops.dispatch", FakeGuest::kText + 0x5100);
  guest.set(guest.root(), "scx_sched", "ops.priv", 0x1234);
  guest.set(guest.root(), "scx_sched", "aborting", 1);
  guest.set(guest.root(), "scx_sched", "novelty", static_cast<std::uint64_t>(-5));
  guest.set(guest.root(), "scx_sched", "phase", 3);
  guest.set(guest.root(), "scx_sched", "nested.inner", 6);
  guest.set(guest.root(), "scx_sched", "warned_deprecated", 1);
  const v1::Dump dump = guest.dump();
  ASSERT_EQ(dump.scheds_size(), 1);
  const v1::Sched& sched = dump.scheds(0);
  EXPECT_EQ(sched.name(), "fake");
  EXPECT_EQ(sched.place(), "root");
  EXPECT_EQ(sched.address(), guest.root().value());
  EXPECT_EQ(sched.ops_flags(), 0x21u);
  EXPECT_EQ(sched.timeout_ms(), 5000u);
  EXPECT_TRUE(sched.aborting());
  EXPECT_EQ(sched.exit_kind_name(), "SCX_EXIT_NONE");
  EXPECT_EQ(std::vector<std::string>(sched.callbacks().begin(), sched.callbacks().end()),
            (std::vector<std::string>{"enqueue", "dispatch"}));
  EXPECT_EQ(other_of(sched, "novelty"), "-5");
  EXPECT_EQ(other_of(sched, "phase"), "SCX_PHASE_DAWN");
  EXPECT_EQ(other_of(sched, "nested.inner"), "6");
  EXPECT_EQ(other_of(sched, "warned_zero_slice"), "0");
  EXPECT_EQ(other_of(sched, "warned_deprecated"), "1");
  EXPECT_EQ(other_of(sched, "level"), "");  // has a field
}

TEST(ScxSched, SubSchedulers) {
  FakeGuest guest;
  const Kva a = guest.add_sched("a", guest.root());
  const Kva b = guest.add_sched("b", guest.root());
  const Kva c = guest.add_sched("c", a);
  guest.add_user_dsq(0x10, c);
  const v1::Dump dump = guest.dump();
  ASSERT_EQ(dump.scheds_size(), 4);
  EXPECT_EQ(dump.scheds(0).name(), "fake");
  EXPECT_EQ(sched_of(dump, "a").parent(), guest.root().value());
  EXPECT_EQ(sched_of(dump, "b").parent(), guest.root().value());
  EXPECT_EQ(sched_of(dump, "b").address(), b.value());
  EXPECT_EQ(sched_of(dump, "c").parent(), a.value());
  EXPECT_EQ(sched_of(dump, "c").place(), "sub2-77 /sub/c");
  EXPECT_EQ(sched_of(dump, "c").cgrp_path(), "/sub/c");
  EXPECT_EQ(dsq_of(dump, "user DSQ 0x10").sched(), c.value());
}

TEST(ScxSched, CycleAmongChildren) {
  FakeGuest guest;
  const Kva a = guest.add_sched("a", guest.root());
  guest.add_sched("b", guest.root());
  // a's list of children is that of the root.
  guest.write(guest.at(a, "scx_sched", "children"), guest.at(a, "scx_sched", "sibling"));
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.scheds_size(), 3);
  EXPECT_NE(faults_of(dump).find(fmt::format("scheduler tree, children of {}: torn", a)), std::string::npos)
      << faults_of(dump);
}

TEST(ScxSched, OutsideOfTheTree) {
  FakeGuest guest;
  guest.add_sched("attaching", Kva());
  const v1::Dump dump = guest.dump();
  ASSERT_EQ(dump.scheds_size(), 2);
  EXPECT_EQ(dump.scheds(1).name(), "attaching");
  EXPECT_EQ(dump.scheds(1).parent(), 0u);
}

TEST(ScxSched, TheOneThatTheTrapNamed) {
  FakeGuest guest{{.without = {"scx_sched_all"}}};
  const Kva lost = guest.add_sched("lost", Kva());
  EXPECT_EQ(guest.dump().scheds_size(), 1);
  EXPECT_EQ(guest.dump(true, {.sched = lost, .stack_pointers = {}}).scheds_size(), 2);
  // Twice the same is one.
  EXPECT_EQ(guest.dump(true, {.sched = guest.root(), .stack_pointers = {}}).scheds_size(), 1);
}

TEST(ScxSched, ExitInfo) {
  FakeGuest guest;
  guest.fail_sched(guest.root(), 1026, "runnable task stall", "spin[7] failed to run for 5.030s");
  const Kva info = guest.exit_info(guest.root());
  guest.set(info, "scx_exit_info", "exit_code", static_cast<std::uint64_t>(-3));
  const Kva trace = guest.alloc(8 * 64);
  guest.write(trace, FakeGuest::kText + 0x5000);
  guest.write(trace + 8, FakeGuest::kText + 0x5110);
  guest.set(info, "scx_exit_info", "bt", trace.value());
  guest.set(info, "scx_exit_info", "bt_len", 2);
  guest.set(info, "scx_exit_info", "dump", guest.text(std::string(5000, 'd')).value());
  guest.set(info, "scx_exit_info", "novelty", 12);
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.scheds(0).exit_kind_name(), "SCX_EXIT_ERROR_STALL");
  const v1::ScxExitInfo& shown = dump.scheds(0).exit_info();
  EXPECT_EQ(shown.kind(), 1026);
  EXPECT_EQ(shown.kind_name(), "SCX_EXIT_ERROR_STALL");
  EXPECT_EQ(shown.exit_code(), -3);
  EXPECT_EQ(shown.reason(), "runnable task stall");
  EXPECT_EQ(shown.msg(), "spin[7] failed to run for 5.030s");
  ASSERT_EQ(shown.bt_size(), 2);
  EXPECT_EQ(shown.bt(0).symbol(), "schedule");
  EXPECT_EQ(shown.bt(1).symbol(), "do_work+0x10");
  EXPECT_EQ(shown.dump(), std::string(5000, 'd'));
  EXPECT_EQ(other_of(shown, "novelty"), "12");
}

TEST(ScxSched, Events) {
  FakeGuest guest;
  for (std::uint32_t cpu = 0; cpu < 4; ++cpu)
    guest.set(guest.sched_cpu(guest.root(), cpu), "scx_sched_pcpu", "event_stats.SCX_EV_FROM_TOMORROW",
              10 * (cpu + 1));
  guest.set(guest.sched_cpu(guest.root(), 3), "scx_sched_pcpu", "novelty", 8);
  const v1::Dump dump = guest.dump();
  const v1::Sched& sched = dump.scheds(0);
  EXPECT_EQ(sched.events().at("SCX_EV_FROM_TOMORROW"), 100u);
  EXPECT_EQ(sched.events().at("SCX_EV_DISPATCH_KEEP_LAST"), 0u);
  EXPECT_EQ(sched.cpus(2).events().at("SCX_EV_FROM_TOMORROW"), 30u);
  EXPECT_EQ(other_of(sched.cpus(3), "novelty"), "8");
}

TEST(ScxSched, Globals) {
  FakeGuest guest{{.nodes = 2}};
  guest.write(guest.symbol("scx_enable_state_var"), 1);
  guest.write(guest.symbol("scx_nr_rejected"), std::int64_t{-7});
  guest.write(guest.symbol("scx_tasks_lock"), std::uint32_t{0x101});
  guest.write(guest.symbol("scx_watchdog_work"), std::uint64_t{0x21});
  guest.write(guest.symbol("scx_watchdog_timestamp"), FakeGuest::kJiffies - 250);
  const Kva mask = guest.alloc(8);
  guest.write(mask, std::uint64_t{0b0101});
  guest.write(guest.symbol("scx_idle_global_masks"), mask);
  guest.write(guest.symbol("scx_idle_global_masks") + 8, guest.alloc(8));
  guest.write(guest.per_cpu(guest.symbol("direct_dispatch_task").value(), 1), std::uint64_t{0x55});
  const v1::Dump dump = guest.dump();
  EXPECT_EQ(dump.globals().scx_enable_state_var(), 1);
  EXPECT_EQ(access_of(dump, "ScxGlobals.scx_enable_state_var"), "scx_enable_state_var");
  EXPECT_EQ(dump.globals().scx_nr_rejected(), -7);
  EXPECT_EQ(dump.globals().watchdog_ran_ms_ago(), 1000u);
  EXPECT_EQ(dump.globals().idle_cpus(), "0,2");
  EXPECT_EQ(dump.globals().idle_smt(), "");
  EXPECT_EQ(dump.globals().scx_root(), guest.root().value());
  EXPECT_EQ(reason_of(dump, "ScxGlobals.scx_exit_kind"), "the kernel has no symbol scx_exit_kind");
  EXPECT_EQ(dump.cpus(1).direct_dispatch_task(), 0x55u);
  EXPECT_EQ(dump.globals().scx_tasks_lock(), 0x101u);
  EXPECT_EQ(dump.globals().scx_watchdog_work(), 0x21u);
  EXPECT_NE(reason_of(dump, "TSC and ktime"), "");
  EXPECT_EQ(dump.header().jiffies(), FakeGuest::kJiffies);
  EXPECT_EQ(dump.header().hz(), FakeGuest::kHz);
  EXPECT_EQ(dump.header().clock_ns(), 1'000'000'003u);
  EXPECT_EQ(dump.header().nr_cpu_ids(), 4u);
}

TEST(ScxSched, RunQueue) {
  FakeGuest guest;
  guest.set(guest.rq(1), "rq", "scx.flags", 9);
  guest.set(guest.rq(1), "rq", "scx.novelty", 3);
  guest.set(guest.rq(1), "rq", "cfs.h_nr_queued", 4);
  guest.set(guest.rq(1), "rq", "__lock.raw_lock.val.counter", 0x101);
  const Kva waiting = guest.add_task({.pid = 4, .comm = "late"});
  guest.set(guest.rq(1), "rq", "core_cookie", 0x77);
  guest.set(guest.rq(1), "rq", "next_class", guest.symbol("fair_sched_class").value());
  guest.set(guest.rq(1), "rq", "scx.rescue.budget", ~std::uint64_t{0});
  guest.set(guest.rq(1), "rq", "scx.rescue.curr", waiting.value());
  guest.append(guest.at(guest.rq(1), "rq", "scx.ddsp_deferred_locals"),
               guest.at(waiting, "task_struct", "scx.dsq_list.node"));
  const v1::Dump dump = guest.dump();
  const v1::Cpu& cpu = dump.cpus(1);
  EXPECT_EQ(cpu.flags(), 9u);
  EXPECT_EQ(cpu.cfs_nr_running(), 4u);
  EXPECT_EQ(cpu.lock(), 0x101u);
  EXPECT_EQ(cpu.rescue_budget(), -1);
  EXPECT_EQ(cpu.core_cookie(), 0x77u);
  EXPECT_EQ(cpu.next_class(), "fair_sched_class");
  EXPECT_EQ(cpu.rescue_curr().comm(), "late");
  EXPECT_FALSE(dump.cpus(2).has_rescue_curr());
  EXPECT_EQ(cpu.ddsp_deferred_locals(), 1u);
  EXPECT_EQ(other_of(cpu, "scx.novelty"), "3");
  EXPECT_EQ(access_of(dump, "Cpu.cfs_nr_running"), "rq.cfs.h_nr_queued");
  EXPECT_EQ(reason_of(dump, "Cpu.pnt_seq"), "struct scx_rq has no member pnt_seq");
  EXPECT_EQ(cpu.curr().comm(), "swapper/1");
}

}  // namespace
}  // namespace ktstr::test
