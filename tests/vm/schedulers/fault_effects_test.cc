// What ktstr-sched's faults do to a run that survives them, and that they can be set while it runs. How each
// one ends a run is in fault_scheduler_test.cc.
#include <algorithm>
#include <fstream>

#include "tests/vm/run/dump_vm_test.h"

namespace ktstr::vmtest {
namespace {

class FaultEffects : public DumpVmTest {
 protected:
  // Four workers for each CPU, so that it matters who is served.
  static constexpr const char* kCrowd = "workers: 8 sleep_and_run { sleep: '1ms' run: '2ms' }";
  // Nobody has a reason to leave its CPU.
  static constexpr const char* kAlone = "workers: 1 sleep_and_run { sleep: '1ms' run: '1ms' }";

  VmRun measured(const std::string& arguments, const std::string& works = kCrowd) const {
    const std::string path = (folder() / "test.textproto").string();
    std::ofstream(path) << "duration: '4s' steps { cgroups { name: 'a' works { " << works
                        << " } } hold { full: true } }";
    return run_seeded("7.2", {"--scheduler", fault_scheduler(), "--scheduler-args", arguments, "--scenario",
                              path, "--cpus", "2"});
  }
  static std::vector<std::uint64_t> of_workers(const VmRun& run, const char* field) {
    std::vector<std::uint64_t> values;
    for (const auto& step : run.result["guest"]["steps"])
      for (const auto& cgroup : step["cgroups"])
        for (const auto& worker : cgroup["workers"])
          values.push_back(worker.contains(field) ? worker[field].get<std::uint64_t>() : 0);
    return values;
  }
  static std::uint64_t sum(const std::vector<std::uint64_t>& values) {
    std::uint64_t all = 0;
    for (const std::uint64_t value : values) all += value;
    return all;
  }
  static double spread(const std::vector<std::uint64_t>& values) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    return static_cast<double>(*most) / static_cast<double>(std::max<std::uint64_t>(*least, 1));
  }
};

TEST_F(FaultEffects, SlowCostsThroughput) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun healthy = measured("");
  const VmRun slow = measured("--slow=2000");
  ASSERT_EQ(healthy.exit_code, 0) << healthy.describe();
  ASSERT_EQ(slow.exit_code, 0) << slow.describe();
  EXPECT_LT(sum(of_workers(slow, "work_units")) * 4, sum(of_workers(healthy, "work_units")) * 3);
}

TEST_F(FaultEffects, UnfairServesSomeBetter) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun healthy = measured("");
  const VmRun unfair = measured("--unfair");
  ASSERT_EQ(healthy.exit_code, 0) << healthy.describe();
  ASSERT_LE(unfair.exit_code, 1) << unfair.describe();
  EXPECT_GT(spread(of_workers(unfair, "work_units")), 2 * spread(of_workers(healthy, "work_units")));
}

TEST_F(FaultEffects, ScatterMovesTasksAbout) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun healthy = measured("", kAlone);
  const VmRun scattered = measured("--scatter", kAlone);
  ASSERT_EQ(healthy.exit_code, 0) << healthy.describe();
  ASSERT_EQ(scattered.exit_code, 0) << scattered.describe();
  EXPECT_GT(sum(of_workers(scattered, "migrations")), 2 * sum(of_workers(healthy, "migrations")));
}

// Two CPUs come within a tenth of a second of each other; but a window of a nanosecond is never hit.
TEST_F(FaultEffects, ARaceNeedsTwoCpusInItsWindow) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun wide = measured("--race --race-window 100000");
  ASSERT_EQ(wide.exit_code, 4) << wide.describe();
  EXPECT_NE(dump_of(wide).scheds(0).exit_info().msg().find("race"), std::string::npos) << wide.describe();
  const VmRun none = measured("--race --race-window 0.001");
  EXPECT_EQ(none.exit_code, 0) << none.describe();
}

// Tasks wait on every queue when it begins, in order of arrival on some and of virtual time on others; the
// kernel calls it an error of its own kind to mix the two.
TEST_F(FaultEffects, AStallOverFullQueuesIsNothingElse) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run =
      measured("--stall-after 1 --timeout-ms 2000", "workers: 24 sleep_and_run { sleep: '1ms' run: '2ms' }");
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  expect_complete(dump_of(run), kStallKind);
}

// Whoever sets the variable in the map .data has the fault from then on.
class FaultsAtRunTime : public FaultEffects,
                        public ::testing::WithParamInterface<std::pair<const char*, int>> {};

TEST_P(FaultsAtRunTime, AreSetThroughTheMap) {
  const auto [variable, kind] = GetParam();
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  KTSTR_NEEDS(beside, environment("KTSTR_BESIDE_SCHEDULER"));
  KTSTR_NEEDS(set_fault, environment("KTSTR_SET_FAULT"));
  const VmRun run = run_seeded(
      "7.2", {"--scheduler", beside, "--include", scheduler, "--include", set_fault, "--scheduler-args",
              std::string("/include/ktstr-sched --timeout-ms 2000 -- /include/set-fault ") + variable + " 1",
              "--duration", "10s"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  ASSERT_EQ(count_of_dumps(run), 1) << run.describe();
  expect_complete(dump_of(run), kind);
}

INSTANTIATE_TEST_SUITE_P(Each, FaultsAtRunTime,
                         ::testing::Values(std::pair("fault_stall", kStallKind),
                                           std::pair("fault_hold_every", kStallKind),
                                           std::pair("fault_error", kBpfErrorKind),
                                           std::pair("fault_bad_dispatch", kErrorKind)),
                         [](const auto& parameter) { return std::string(parameter.param.first).substr(6); });

}  // namespace
}  // namespace ktstr::vmtest
