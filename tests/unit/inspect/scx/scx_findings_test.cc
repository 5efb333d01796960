// Findings: each kind, where it must be and where it must not.
#include <gtest/gtest.h>

#include "common/kick_masks.h"
#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {
namespace {

using v1::DumpFinding;

class ScxFindingsTest : public testing::Test {
 protected:
  explicit ScxFindingsTest(Shape shape = Shape::kNew) : guest_{{.shape = shape}} {
    for (std::uint32_t cpu = 0; cpu < 4; ++cpu) busy(cpu);
  }
  // Gives a CPU something to run.
  void busy(std::uint32_t cpu) {
    guest_.run_on(cpu, guest_.add_task({.pid = 1000 + static_cast<int>(cpu), .comm = "busy"}));
  }
  void idle(std::uint32_t cpu) {
    guest_.run_on(cpu, guest_.idle_task(cpu));
    guest_.set(guest_.rq(cpu), "rq", "scx.nr_running", 0);
  }
  // Waits on a user DSQ.
  Kva waiter(std::int32_t pid, std::uint64_t ms, std::uint64_t cpus = ~std::uint64_t{0}) {
    const Kva task = guest_.add_task({.pid = pid, .comm = "w" + std::to_string(pid)});
    guest_.make_runnable(task, 0, ms);
    guest_.queue(dsq_, task);
    guest_.set(task, "task_struct", "cpus_mask.bits[0]", cpus);
    return task;
  }
  std::vector<DumpFinding> findings(std::string_view kind) { return findings_of(guest_.dump(), kind); }

  FakeGuest guest_;
  Kva dsq_ = guest_.add_user_dsq(7);
};

TEST_F(ScxFindingsTest, NothingToFind) {
  waiter(1, 100);
  const v1::Dump dump = guest_.dump();
  for (const auto& finding : dump.findings()) EXPECT_EQ(finding.kind(), "task-lists") << finding.text();
}

TEST_F(ScxFindingsTest, IdleWhileATaskWaits) {
  waiter(1, 52);
  EXPECT_TRUE(findings("idle-while-waiting").empty());
  idle(3);
  const auto found = findings("idle-while-waiting");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].severity(), DumpFinding::ERROR);
  EXPECT_EQ(found[0].text(),
            "CPU 3 is idle while 1 task that may run there waits: w1[1] 52 ms on user DSQ 0x7");
  ASSERT_EQ(found[0].cpus_size(), 1);
  EXPECT_EQ(found[0].cpus(0), 3u);
  EXPECT_EQ(found[0].pids(0), 1);
}

TEST_F(ScxFindingsTest, AShortWaitIsANote) {
  waiter(1, 4);
  idle(3);
  ASSERT_EQ(findings("idle-while-waiting").size(), 1u);
  EXPECT_EQ(findings("idle-while-waiting")[0].severity(), DumpFinding::NOTE);
}

TEST_F(ScxFindingsTest, ATaskThatMayNotRunThere) {
  waiter(1, 52, 0b0111);
  idle(3);
  EXPECT_TRUE(findings("idle-while-waiting").empty());
  waiter(2, 48, 0b1000);
  ASSERT_EQ(findings("idle-while-waiting").size(), 1u);
  EXPECT_EQ(findings("idle-while-waiting")[0].pids(0), 2);
}

TEST_F(ScxFindingsTest, ATaskThatMayNotMigrate) {
  const Kva task = waiter(1, 52);
  guest_.set(task, "task_struct", "migration_disabled", 1);
  idle(3);
  EXPECT_TRUE(findings("idle-while-waiting").empty());
  // Its own CPU is another matter.
  idle(0);
  guest_.set(guest_.rq(0), "rq", "scx.nr_running", 1);
  const auto found = findings("idle-while-waiting");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].cpus(0), 0u);
}

TEST_F(ScxFindingsTest, ACpuThatIsOff) {
  waiter(1, 52);
  idle(3);
  guest_.set(guest_.rq(3), "rq", "online", 0);
  EXPECT_TRUE(findings("idle-while-waiting").empty());
}

TEST_F(ScxFindingsTest, OwnedByTheScheduler) {
  const Kva task = guest_.add_task({.pid = 5, .comm = "held"});
  guest_.make_runnable(task, 0, 6000);
  guest_.set_ops_state(task, 2);
  idle(1);
  ASSERT_EQ(findings("idle-while-waiting").size(), 1u);
  EXPECT_NE(findings("idle-while-waiting")[0].text().find("held[5] 6000 ms owned by the BPF scheduler"),
            std::string::npos);
}

TEST_F(ScxFindingsTest, LongWaits) {
  waiter(1, 1000);  // 20 %
  waiter(2, 1300);  // 26 %
  waiter(3, 2500);  // 50 %
  waiter(4, 2504);  // a little more
  waiter(5, 5000);  // 100 %
  waiter(6, 60000);
  const auto found = findings("waiting");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].severity(), DumpFinding::ERROR);
  EXPECT_EQ(found[0].text(),
            "1 task has waited longer than 100 % of the watchdog's limit of 5000 ms: w6[6] 60000 ms on user "
            "DSQ 0x7");
  EXPECT_EQ(found[1].severity(), DumpFinding::WARNING);
  EXPECT_NE(found[1].text().find("2 tasks have waited longer than 50 %"), std::string::npos)
      << found[1].text();
  EXPECT_EQ(found[1].pids(0), 5);
  EXPECT_EQ(found[1].pids(1), 4);
  EXPECT_NE(found[2].text().find("2 tasks have waited longer than 25 %"), std::string::npos)
      << found[2].text();
  EXPECT_EQ(found[2].pids(0), 3);
  EXPECT_EQ(found[2].pids(1), 2);
}

TEST_F(ScxFindingsTest, ManyWaitersAreCountedNotListed) {
  for (int pid = 1; pid <= 30; ++pid) waiter(pid, 10000 + static_cast<std::uint64_t>(pid) * 4);
  const auto found = findings("waiting");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].text().find("and 25 more"), std::string::npos) << found[0].text();
  EXPECT_EQ(found[0].pids_size(), 30);
  EXPECT_EQ(found[0].pids(0), 30);
}

TEST_F(ScxFindingsTest, CountOfTheRunQueue) {
  waiter(1, 20);
  EXPECT_TRUE(findings("count-mismatch").empty());
  guest_.set(guest_.rq(0), "rq", "scx.nr_running", 9);
  const auto found = findings("count-mismatch");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].text(), "CPU 0: scx.nr_running is 9, but 1 task is on the runnable list and one runs");
}

class ScxKickWaitTest : public ScxFindingsTest, public testing::WithParamInterface<Shape> {
 protected:
  ScxKickWaitTest() : ScxFindingsTest(GetParam()) {}
};
// Kick masks are in struct rq, or each scheduler has its own.
INSTANTIATE_TEST_SUITE_P(Shapes, ScxKickWaitTest, testing::Values(Shape::kNew, Shape::kNewer));

TEST_P(ScxKickWaitTest, KickWait) {
  // CPU 1 kicked CPU 2 and waits; CPU 3 moved on since.
  const Kva mask = guest_.alloc(8);
  guest_.write(mask, std::uint64_t{0b1100});
  const bool in_sched = GetParam() == Shape::kNewer;
  if (in_sched)
    guest_.set(guest_.sched_cpu(guest_.root(), 1), "scx_sched_pcpu", "cpus_to_wait", mask.value());
  else
    guest_.set(guest_.rq(1), "rq", "scx.cpus_to_wait", mask.value());
  const Kva syncs = guest_.make("scx_kick_syncs", 8 * 4);
  for (std::uint64_t cpu = 0; cpu < 4; ++cpu) {
    guest_.write(guest_.at(syncs, "scx_kick_syncs", "syncs") + 8 * cpu, std::uint64_t{50 + cpu});
    guest_.set(guest_.rq(static_cast<std::uint32_t>(cpu)), "rq", "scx.kick_sync", 50 + cpu);
  }
  guest_.set(guest_.rq(3), "rq", "scx.kick_sync", 99);
  guest_.write(guest_.per_cpu(guest_.symbol("scx_kick_syncs").value(), 1), syncs);
  const v1::Dump dump = guest_.dump();
  ASSERT_EQ(dump.cpus(1).kick_syncs_size(), 4);
  EXPECT_EQ(dump.cpus(1).kick_syncs(2), 52u);
  EXPECT_EQ(kick_mask(dump.cpus(1), &dump.scheds(0), KickMask::kWait), "2-3");
  EXPECT_EQ(dump.cpus(1).has_cpus_to_wait(), !in_sched);
  EXPECT_EQ(dump.cpus(0).kick_syncs_size(), 0);
  const auto found = findings_of(dump, "kick-wait");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].text(), "CPU 1 waits for CPU 2 to reschedule (SCX_KICK_WAIT), which runs busy[1002]");
}

TEST_F(ScxFindingsTest, TransitBypassAndWatchdog) {
  const Kva task = guest_.add_task({.pid = 5, .comm = "moving"});
  guest_.make_runnable(task, 0, 16);
  guest_.set_ops_state(task, 3);
  guest_.set(guest_.root(), "scx_sched", "bypass_depth", 2);
  guest_.write(guest_.symbol("scx_watchdog_timestamp"), FakeGuest::kJiffies - 20 * FakeGuest::kHz);
  const v1::Dump dump = guest_.dump();
  ASSERT_EQ(findings_of(dump, "in-transit").size(), 1u);
  EXPECT_NE(findings_of(dump, "in-transit")[0].text().find("moving[5] 16 ms in transit (DISPATCHING)"),
            std::string::npos);
  ASSERT_EQ(findings_of(dump, "bypass").size(), 1u);
  EXPECT_NE(findings_of(dump, "bypass")[0].text().find("fake is bypassed (depth 2)"), std::string::npos);
  ASSERT_EQ(findings_of(dump, "watchdog").size(), 1u);
  EXPECT_NE(findings_of(dump, "watchdog")[0].text().find("last ran 20000 ms ago"), std::string::npos);
}

TEST_F(ScxFindingsTest, StuckInTransitIsAWarning) {
  for (const auto& [pid, ms] : {std::pair(5, 16), std::pair(6, 1), std::pair(7, 6000)}) {
    const Kva task = guest_.add_task({.pid = pid, .comm = "moving"});
    guest_.make_runnable(task, 0, static_cast<std::uint64_t>(ms));
    guest_.set_ops_state(task, 1);
  }
  const auto found = findings("in-transit");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].severity(), DumpFinding::WARNING);
  ASSERT_EQ(found[0].pids_size(), 2);
  EXPECT_EQ(found[0].pids(0), 7);  // the longest first
  EXPECT_EQ(found[0].pids(1), 5);
  EXPECT_EQ(found[1].severity(), DumpFinding::NOTE);
  ASSERT_EQ(found[1].pids_size(), 1);
  EXPECT_EQ(found[1].pids(0), 6);
}

TEST_F(ScxFindingsTest, ErrorsComeFirst) {
  waiter(1, 60000);
  idle(3);
  guest_.set(dsq_, "scx_dispatch_q", "nr", 55);
  const v1::Dump dump = guest_.dump();
  for (int i = 1; i < dump.findings_size(); ++i)
    EXPECT_GE(dump.findings(i - 1).severity(), dump.findings(i).severity());
  EXPECT_EQ(dump.findings(0).severity(), DumpFinding::ERROR);
}

TEST_F(ScxFindingsTest, BrokenRunnableList) {
  const Kva task = waiter(1, 52);
  waiter(2, 48);
  guest_.write(guest_.at(task, "task_struct", "scx.runnable_node"), std::uint64_t{0});
  const v1::Dump dump = guest_.dump();
  EXPECT_EQ(findings_of(dump, "list").size(), 1u);
  EXPECT_FALSE(dump.cpus(0).runnable_list_broken().empty());
  EXPECT_EQ(dump.cpus(0).runnable_list_size(), 2);
  // A count cannot be checked against a list that is broken.
  EXPECT_TRUE(findings_of(dump, "count-mismatch").empty());
}

}  // namespace
}  // namespace ktstr::test
