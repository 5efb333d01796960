// Dumps of guests with much in them: thousands of tasks, queues ordered by virtual time, schedulers below
// schedulers.
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>

#include "tests/vm/run/dump_vm_test.h"

namespace ktstr::vmtest {
namespace {

using ktstr::v1::Sched;

class DumpsOfMuch : public DumpVmTest {
 protected:
  std::string scenario(const std::string& text) const {
    const std::string path = (folder() / "test.textproto").string();
    std::ofstream(path) << text;
    return path;
  }
};

// Twice as many as fit into the kernel's own dump of 32 KiB many times over, and none is missing.
TEST_F(DumpsOfMuch, TwoThousandTasksAndTheOrderOfVirtualTime) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  // Without an instruction clock the crowd takes as long as the host makes it.
  const std::string after = on_kvm() ? "60" : "10";
  const VmRun run =
      run_seeded("7.2", {"--scheduler", scheduler, "--scheduler-args",
                         "--error-after " + after + " --timeout-ms 20000", "--scenario", scenario(R"(
      description: "A crowd: most of it sleeps"
      duration: "90s"
      steps {
        name: "crowd"
        cgroups { name: "sleepers" works { workers: 1900 sleep_and_run { sleep: "5s" run: "10us" } } }
        cgroups { name: "spinners" works { workers: 100 spin {} } }
        hold { full: true }
      })"),
                         "--duration", "90s", "--on-freeze", "stop"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  EXPECT_GT(dump.tasks_size(), 2000);
  EXPECT_EQ(dump.header().faults(), 0U);
  EXPECT_EQ(dump.header().incomplete(), "");
  std::map<std::uint64_t, const Task*> tasks;
  for (const Task& task : dump.tasks()) tasks.emplace(task.address(), &task);
  EXPECT_EQ(tasks.size(), static_cast<std::size_t>(dump.tasks_size())) << "a task is there twice";
  std::size_t by_time = 0;
  for (const Dsq& dsq : dump.dsqs()) {
    EXPECT_EQ(dsq.nr(), static_cast<std::uint32_t>(dsq.tasks_size())) << dsq.name();
    EXPECT_TRUE(dsq.problems().empty()) << dsq.name() << ": " << dsq.problems(0);
    const bool ordered = dsq.priq_nodes() > 0;
    std::uint64_t before = dsq.tasks().empty() ? 0 : dsq.tasks(0).dsq_vtime();
    for (const auto& entry : dsq.tasks()) {
      ASSERT_TRUE(tasks.contains(entry.task())) << dsq.name();
      EXPECT_EQ(tasks[entry.task()]->where(), Task::ON_DSQ) << entry.comm();
      if (!ordered) continue;
      ++by_time;
      // It wraps, and so does the kernel's comparison (scx_dsq_priq_less()).
      EXPECT_GE(static_cast<std::int64_t>(entry.dsq_vtime() - before), 0) << dsq.name();
      before = entry.dsq_vtime();
    }
  }
  EXPECT_GT(by_time, 20U);
}

// The scheduler of a cgroup below the root's, thrown out by an error of its own; the run's scheduler stays.
TEST_F(DumpsOfMuch, ASchedulerBelowTheRootsIsInTheDump) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(qmap, example_scheduler("scx_qmap"));
  KTSTR_NEEDS(beside, environment("KTSTR_BESIDE_SCHEDULER"));
  const VmRun run = run_seeded(
      "7.2",
      {"--scheduler", beside, "--include", qmap, "--scheduler-args",
       "/include/scx_qmap -- --in /sys/fs/cgroup/below /include/scx_qmap -e 2000 -c /sys/fs/cgroup/below",
       "--duration", "20s", "--scenario", scenario(R"(
      description: "One worker that mostly sleeps"
      duration: "20s"
      steps {
        name: "calm"
        cgroups { name: "a" works { workers: 1 sleep_and_run { sleep: "50ms" run: "1ms" } } }
        hold { full: true }
      })")});
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  ASSERT_EQ(count_of_dumps(run), 1) << run.describe();
  const Dump dump = dump_of(run);
  EXPECT_EQ(dump.header().trap_exit_kind(), static_cast<std::uint64_t>(kBpfErrorKind));
  EXPECT_EQ(dump.header().faults(), 0U);
  ASSERT_EQ(dump.scheds_size(), 2);
  const Sched& root = dump.scheds(0);
  const Sched& below = dump.scheds(1);
  EXPECT_EQ(root.level(), 0);
  EXPECT_EQ(below.level(), 1);
  EXPECT_EQ(below.cgrp_path(), "/below");
  EXPECT_EQ(below.parent(), root.address());
  EXPECT_EQ(below.exit_info().kind(), kBpfErrorKind);
  EXPECT_EQ(root.exit_info().kind(), 0);
  const Task* member = find_task(dump, "member");
  ASSERT_NE(member, nullptr);
  EXPECT_EQ(member->sched(), below.address());
  EXPECT_EQ(member->where(), Task::IN_TRANSIT);  // the error is raised where it is enqueued
  const Task* kthreadd = find_task(dump, "kthreadd");
  ASSERT_NE(kthreadd, nullptr);
  EXPECT_EQ(kthreadd->sched(), root.address());
}

// On a machine whose vCPUs are threads of their own, so not beside other tests.
class LiveDumpsOfLavd : public DumpsOfMuch {};

// scx_lavd prints how many tasks wait in its queues, averaged over a second each time.
TEST_F(LiveDumpsOfLavd, QueuesAgreeWithItsOwnStatistics) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  const std::string few = "workers: 1 sleep_and_run { sleep: '50ms' run: '1ms' }";
  const std::string steps = "steps { name: 'first' cgroups { name: 'a' works { " + few +
                            " } } hold { frac: 0.5 } }"
                            "steps { name: 'second' cgroups { name: 'a' works { " +
                            few + " } } hold { frac: 0.5 } }";
  const VmRun run =
      run_on("7.2",
             {"--scheduler", scheduler, "--scheduler-args", "--stats 1", "--scenario",
              scenario("duration: '8s' backdrop { cgroups { name: 'crowd' works { workers: 40 spin {} "
                       "} } }" +
                       steps)},
             [&](pid_t pid) {
               if (!wait_for_output(pid, "'second'")) return;
               ::kill(pid, SIGUSR1);
               wait_for_output(pid, "dump 1:");
             });
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  // "|  MSEQ  |  # Q TASK  | ...", between the codes of colours.
  std::ifstream log(run.folder / "scheduler.log");
  std::vector<int> waiting;
  const std::regex row(R"(\|\s+\d+ \|\s+(\d+) \|)");
  std::smatch found;
  for (std::string line; std::getline(log, line);)
    if (std::regex_search(line, found, row)) waiting.push_back(std::stoi(found[1]));
  ASSERT_FALSE(waiting.empty()) << run.describe();
  const auto [least, most] = std::minmax_element(waiting.begin(), waiting.end());
  int shown = 0;
  const Dump dump = dump_of(run);
  for (const Dsq& dsq : dump.dsqs())
    if (dsq.kind() == Dsq::USER) shown += dsq.tasks_size();
  // An average, and an instant at which the one worker that sleeps may be there or not.
  EXPECT_GE(shown, *least - 2);
  EXPECT_LE(shown, *most + 2);
  EXPECT_GT(shown, 30);
}

}  // namespace
}  // namespace ktstr::vmtest
