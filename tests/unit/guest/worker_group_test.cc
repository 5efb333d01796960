#include "guest/workload/worker_group.h"

#include <signal.h>
#include <sys/wait.h>

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "guest/cgroup/recording_cgroups.h"
#include "guest/workload/reservoir.h"
#include "tests/unit/guest/fake_supervisor.h"

namespace ktstr::guest {
namespace {

using ktstr::v1::CgroupDef;
using ktstr::v1::WorkerReport;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

// Real forked workers; only the cgroups are recorded.
class WorkerGroupTest : public ::testing::Test {
 protected:
  void add(const std::string& text) {
    auto def = std::make_unique<CgroupDef>();
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, def.get()));
    defs_.push_back(std::move(def));
  }
  void spawn(WorkerGroup::Patience patience = kPatient) {
    WorkerGroup::Options options;
    for (const auto& def : defs_) options.cgroups.push_back(def.get());
    options.seed = 1;
    options.gate = gate_ = *Gate::create();
    options.patience = patience;
    auto group = WorkerGroup::spawn(std::move(options), cgroups_, supervisor_);
    ASSERT_TRUE(group) << group.error().to_string();
    group_ = *std::move(group);
  }
  void make_ready() { ASSERT_EQ(group_->wait_ready(), WorkerGroup::Waited::kDone); }
  // Lets the workers do `iterations` rounds together.
  void work(std::uint64_t iterations) {
    gate_->open();
    const MonotonicTime end = monotonic_now() + seconds(120);
    while (group_->iterations() < iterations && monotonic_now() < end) {
      supervisor_.wait_until(monotonic_now() + milliseconds(1));
    }
    ASSERT_GE(group_->iterations(), iterations);
  }
  std::vector<ktstr::v1::CgroupResult> collect(WorkerGroup::How how = WorkerGroup::How::kAsk) {
    return group_->collect(how, "killed by the test");
  }

  // What a machine that builds something else on every CPU needs at worst; no test waits for it.
  static constexpr WorkerGroup::Patience kPatient{seconds(120), seconds(120), seconds(120), milliseconds(0)};
  static constexpr WorkerGroup::Patience kImpatient{milliseconds(50), milliseconds(50), seconds(120),
                                                    milliseconds(0)};

  std::vector<std::unique_ptr<CgroupDef>> defs_;
  RecordingCgroups cgroups_;
  FakeSupervisor supervisor_;
  std::shared_ptr<Gate> gate_;
  std::unique_ptr<WorkerGroup> group_;
};

TEST_F(WorkerGroupTest, SpinnersReportWhatTheyDid) {
  add("name: 'a' works { workers: 4 spin {} }");
  spawn();
  make_ready();
  EXPECT_EQ(group_->iterations(), 0U);
  EXPECT_EQ(cgroups_.log, std::vector<std::string>(4, "attach a"));
  const std::vector<pid_t> pids = group_->pids();
  work(2000);
  const auto results = collect();
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0].cgroup(), "a");
  ASSERT_EQ(results[0].workers_size(), 4);
  std::uint64_t units = 0;
  for (int i = 0; i < 4; ++i) {
    const WorkerReport& worker = results[0].workers(i);
    EXPECT_TRUE(worker.completed()) << worker.exit_info();
    EXPECT_EQ(worker.tid(), pids[static_cast<std::size_t>(i)]);
    EXPECT_EQ(worker.work_units(), worker.iterations() * 1024);
    EXPECT_GT(worker.wall_time_ns(), 0U);
    EXPECT_GE(worker.wall_time_ns(), worker.max_gap_ns());
    EXPECT_FALSE(worker.cpus_used().empty());
    EXPECT_EQ(worker.wake_samples_total(), 0U);
    EXPECT_TRUE(worker.setup_errors().empty()) << worker.setup_errors(0);
    units += worker.work_units();
  }
  EXPECT_GE(units, 2000U * 1024U);
  EXPECT_TRUE(supervisor_.children.empty());
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a worker was not reaped";
}

TEST_F(WorkerGroupTest, SleepersSampleTheirWakeUpsAndSleepIsNoGap) {
  add("name: 'a' works { workers: 1 sleep_and_run { sleep: '300us' run: '50us' } }");
  spawn();
  make_ready();
  work(20);
  const auto results = collect();
  const WorkerReport& worker = results[0].workers(0);
  ASSERT_TRUE(worker.completed());
  EXPECT_GE(worker.wake_samples_total(), 20U);
  EXPECT_EQ(worker.wake_latencies_ns_size(), static_cast<int>(worker.wake_samples_total()));
  EXPECT_GE(worker.cpu_time_ns(), worker.iterations() * 50'000U);
}

TEST_F(WorkerGroupTest, LongSleepersStopAtOnceAndShowNoGap) {
  add("name: 'a' works { workers: 3 sleep_and_run { sleep: '1h' } }");
  spawn();
  make_ready();
  gate_->open();
  supervisor_.wait_until(monotonic_now() + milliseconds(20));
  const MonotonicTime before = monotonic_now();
  const auto results = collect();
  EXPECT_LT(monotonic_now() - before, seconds(120));
  for (const WorkerReport& worker : results[0].workers()) {
    EXPECT_TRUE(worker.completed());
    EXPECT_EQ(worker.iterations(), 0U);
    EXPECT_LE(worker.max_gap_ns(), worker.wall_time_ns());
  }
}

TEST_F(WorkerGroupTest, YieldWithoutBurstCountsWork) {
  add("name: 'a' works { workers: 1 yield { burst: '0s' } }");
  spawn();
  make_ready();
  work(10);
  const auto results = collect();
  EXPECT_EQ(results[0].workers(0).work_units(), results[0].workers(0).iterations());
}

TEST_F(WorkerGroupTest, EveryCgroupAndWorkHasItsReports) {
  add("name: 'a' works { workers: 1 spin {} } works { workers: 2 yield {} }");
  add("name: 'b' cpuset: '0' works { workers_per_cpu: 2 sleep_and_run {} }");
  spawn();
  make_ready();
  work(100);
  const auto results = collect();
  ASSERT_EQ(results.size(), 2U);
  ASSERT_EQ(results[0].workers_size(), 3);
  EXPECT_EQ(results[0].workers(0).work_index(), 0U);
  EXPECT_EQ(results[0].workers(2).work_index(), 1U);
  ASSERT_EQ(results[1].workers_size(), 2);
  EXPECT_EQ(results[1].cpuset(), "0");
}

TEST_F(WorkerGroupTest, WorkersInheritNothingButStandardStreams) {
  const UniqueFd leak(::dup(0));
  add("name: 'a' works { workers: 1 nice: 3 spin {} }");
  spawn();
  make_ready();
  const std::string fds = "/proc/" + std::to_string(group_->pids()[0]) + "/fd/";
  for (int fd = 4; fd < 64; ++fd) {
    char target[256] = {};
    const ssize_t length = ::readlink((fds + std::to_string(fd)).c_str(), target, sizeof target - 1);
    if (length <= 0) continue;
    EXPECT_THAT(target, HasSubstr("schedstat"));
  }
  EXPECT_EQ(::getpgid(group_->pids()[0]), group_->pids()[0]);
  collect(WorkerGroup::How::kKill);
}

TEST_F(WorkerGroupTest, ImpossibleAffinityIsASetupError) {
  add("name: 'a' works { workers: 1 affinity: '8000' spin {} }");
  spawn();
  make_ready();
  work(1);
  const auto results = collect();
  EXPECT_TRUE(results[0].workers(0).completed());
  ASSERT_EQ(results[0].workers(0).setup_errors_size(), 1);
  EXPECT_THAT(results[0].workers(0).setup_errors(0), HasSubstr("affinity 8000"));
}

TEST_F(WorkerGroupTest, KilledWorkerLeavesASentinel) {
  add("name: 'a' works { workers: 3 spin {} }");
  spawn();
  make_ready();
  const pid_t victim = group_->pids()[1];
  ::kill(victim, SIGKILL);
  work(10);
  const auto results = collect();
  ASSERT_EQ(results[0].workers_size(), 3);
  EXPECT_TRUE(results[0].workers(0).completed());
  EXPECT_TRUE(results[0].workers(2).completed());
  const WorkerReport& lost = results[0].workers(1);
  EXPECT_FALSE(lost.completed());
  EXPECT_EQ(lost.exit_info(), "killed by signal 9");
  EXPECT_EQ(lost.tid(), victim);
  EXPECT_EQ(lost.work_units(), 0U);
}

TEST_F(WorkerGroupTest, StoppedWorkerIsGivenUpAtTheDeadline) {
  add("name: 'a' works { workers: 2 spin {} }");
  spawn({seconds(120), milliseconds(100), seconds(120), milliseconds(0)});
  make_ready();
  work(10);
  ::kill(group_->pids()[0], SIGSTOP);
  const auto results = collect();
  EXPECT_FALSE(results[0].workers(0).completed());
  EXPECT_EQ(results[0].workers(0).exit_info(), "did not answer");
  EXPECT_EQ(group_->pids()[0], -1) << "killed and reaped all the same";
}

TEST_F(WorkerGroupTest, DeadBeforeReadyDoesNotHoldUpTheOthers) {
  // Killed right after the fork, before it was let into its cgroup.
  int attached = 0;
  cgroups_.observer = [&](const std::string&) {
    if (++attached == 1) ::kill(cgroups_.procs("a")->front(), SIGKILL);
  };
  add("name: 'a' works { workers: 3 spin {} }");
  spawn();
  make_ready();
  EXPECT_EQ(group_->not_ready(), 1U);
  work(10);
  const auto results = collect();
  EXPECT_EQ(results[0].workers(0).exit_info(), "killed by signal 9");
  EXPECT_TRUE(results[0].workers(1).completed());
}

TEST_F(WorkerGroupTest, StuckSetUpMeetsTheDeadline) {
  cgroups_.observer = [&](const std::string&) { ::kill(cgroups_.procs("a")->back(), SIGSTOP); };
  add("name: 'a' works { workers: 2 spin {} }");
  spawn(kImpatient);
  EXPECT_EQ(group_->wait_ready(), WorkerGroup::Waited::kDeadline);
  EXPECT_EQ(group_->not_ready(), 2U);
  const auto results = collect(WorkerGroup::How::kKill);
  EXPECT_EQ(results[0].workers(1).exit_info(), "killed by the test");
}

TEST_F(WorkerGroupTest, SchedulerGoneDuringCollectionKillsFirst) {
  add("name: 'a' works { workers: 2 spin {} }");
  spawn();
  make_ready();
  work(10);
  for (const pid_t pid : group_->pids()) ::kill(pid, SIGSTOP);
  supervisor_.script = [](MonotonicTime) { return Supervisor::Wake::kSchedulerGone; };
  const auto results = collect();
  EXPECT_TRUE(group_->scheduler_went());
  EXPECT_EQ(results[0].workers(0).exit_info(), "killed because the scheduler was gone");
}

TEST_F(WorkerGroupTest, StopRequestStillCollects) {
  add("name: 'a' works { workers: 2 spin {} }");
  spawn();
  make_ready();
  work(10);
  supervisor_.script = [](MonotonicTime) { return Supervisor::Wake::kStopRequested; };
  const auto results = collect();
  EXPECT_TRUE(results[0].workers(0).completed());
  EXPECT_TRUE(results[0].workers(1).completed());
}

TEST_F(WorkerGroupTest, ClosedGateIsKilledNotAsked) {
  add("name: 'a' works { workers: 1 spin {} }");
  spawn();
  make_ready();
  const auto results = collect();
  EXPECT_EQ(results[0].workers(0).exit_info(), "killed by the test");
}

TEST_F(WorkerGroupTest, FailedAttachLeavesNobody) {
  cgroups_.failures["attach a"] = {EACCES};
  add("name: 'a' works { workers: 2 spin {} }");
  WorkerGroup::Options options;
  options.cgroups.push_back(defs_[0].get());
  options.gate = *Gate::create();
  const auto group = WorkerGroup::spawn(std::move(options), cgroups_, supervisor_);
  ASSERT_FALSE(group);
  EXPECT_THAT(group.error().to_string(), HasSubstr("attach a: Permission denied"));
  EXPECT_TRUE(supervisor_.children.empty());
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
}

TEST_F(WorkerGroupTest, NobodyToWaitFor) {
  spawn();
  make_ready();
  gate_->open();
  EXPECT_TRUE(collect().empty());
}

}  // namespace
}  // namespace ktstr::guest
