#include "guest/scenario/checks.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "guest/scenario/latency.h"

namespace ktstr::guest {
namespace {

using ktstr::v1::CgroupDef;
using ktstr::v1::CgroupResult;
using ktstr::v1::Checks;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

template <typename Message>
Message parse(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

// Judges one cgroup on a machine of four CPUs.
Judgement judge_one(const std::string& def_text, const std::string& result_text,
                    const std::string& checks_text) {
  const auto def = parse<CgroupDef>(def_text);
  const auto result = parse<CgroupResult>(result_text);
  JudgedStep step;
  step.name = "load";
  step.cpus = 4;
  step.cgroups.push_back({&def, &result});
  return judge(step, parse<Checks>(checks_text));
}

struct Case {
  const char* name;
  const char* def;
  const char* result;
  const char* checks;
  ktstr::v1::Verdict verdict;
  const char* kind;  // of the first reason
  const char* text;  // part of it
};

class ChecksTable : public ::testing::TestWithParam<Case> {};

TEST_P(ChecksTable, Judges) {
  const Case& test = GetParam();
  const Judgement judgement = judge_one(test.def, test.result, test.checks);
  EXPECT_EQ(judgement.verdict, test.verdict);
  if (test.verdict == ktstr::v1::PASS) {
    EXPECT_TRUE(judgement.reasons.empty());
    return;
  }
  ASSERT_FALSE(judgement.reasons.empty());
  EXPECT_EQ(judgement.reasons[0].kind(), test.kind);
  EXPECT_EQ(judgement.reasons[0].step(), "load");
  EXPECT_NE(judgement.reasons[0].text().find(test.text), std::string::npos) << judgement.reasons[0].text();
}

constexpr const char* kSpin = "name: 'a' works { workers: 2 spin {} }";
constexpr const char* kPinned = "name: 'a' cpuset: '0-1' works { workers: 2 spin {} }";
constexpr const char* kSleep = "name: 'a' works { workers: 1 sleep_and_run {} }";

INSTANTIATE_TEST_SUITE_P(
    All, ChecksTable,
    ::testing::Values(
        Case{"NotStarvedPasses", kSpin, "cgroup: 'a' workers { tid: 5 work_units: 1024 completed: true }",
             "not_starved: true", ktstr::v1::PASS, "", ""},
        Case{"NotStarvedFails", kSpin,
             "cgroup: 'a' workers { tid: 5 work_units: 1024 completed: true }"
             "workers { tid: 6 completed: true wall_time_ns: 1500000000 }",
             "not_starved: true", ktstr::v1::FAIL, "starved",
             "worker 1 (spin, tid 6) of cgroup 'a' in step 'load' did 0 units of work in 1.5 s"},
        Case{"LostWorkerFailsAnyCheck", kSpin,
             "cgroup: 'a' workers { tid: 6 exit_info: 'killed by signal 9' }", "max_gap: '1s'",
             ktstr::v1::FAIL, "worker-lost", "gave no report: killed by signal 9"},
        Case{"LostWorkerWithoutChecksPasses", kSpin, "cgroup: 'a' workers { tid: 6 exit_info: 'exited 1' }",
             "", ktstr::v1::PASS, "", ""},
        Case{"MaxGapAtLimitPasses", kSpin, "cgroup: 'a' workers { completed: true max_gap_ns: 100000000 }",
             "max_gap: '100ms'", ktstr::v1::PASS, "", ""},
        Case{"MaxGapFails", kSpin,
             "cgroup: 'a' workers { completed: true max_gap_ns: 100000001 }"
             "workers { tid: 9 completed: true max_gap_ns: 2400000000 max_gap_cpu: 3 max_gap_at_ns: "
             "1200000000 }",
             "max_gap: '100ms'", ktstr::v1::FAIL, "gap",
             "worker 1 (spin, tid 9) of cgroup 'a' in step 'load' made no progress for 2.4 s (CPU 3, 1.2 s "
             "after the "
             "start); at most 100 ms is allowed; 2 of its 2 workers are concerned"},
        Case{"IsolationPasses", kPinned, "cgroup: 'a' workers { completed: true cpus_used: [0, 1] }",
             "isolation: true", ktstr::v1::PASS, "", ""},
        Case{"IsolationFails", kPinned, "cgroup: 'a' workers { completed: true cpus_used: [0, 2, 3] }",
             "isolation: true", ktstr::v1::FAIL, "isolation", "ran on CPUs 2-3, outside of the cpuset 0-1"},
        Case{"IsolationWithoutCpusetPasses", kSpin, "cgroup: 'a' workers { completed: true cpus_used: [3] }",
             "isolation: true", ktstr::v1::PASS, "", ""},
        Case{"SpreadPasses", kSpin,
             "cgroup: 'a' workers { completed: true cpu_time_ns: 50 wall_time_ns: 100 }"
             "workers { completed: true cpu_time_ns: 55 wall_time_ns: 100 }",
             "max_spread_pct: 5", ktstr::v1::PASS, "", ""},
        Case{"SpreadFails", kSpin,
             "cgroup: 'a' workers { tid: 1 completed: true cpu_time_ns: 20 wall_time_ns: 100 }"
             "workers { tid: 2 completed: true cpu_time_ns: 80 wall_time_ns: 100 }",
             "max_spread_pct: 5", ktstr::v1::FAIL, "spread",
             "differ by 60.0 percentage points (worker 0 (spin, tid 1) had 20.0 %, worker 1 (spin, tid 2) "
             "had 80.0 %)"},
        Case{"SpreadIgnoresOtherNice",
             "name: 'a' works { workers: 1 spin {} } works { workers: 1 nice: 5 spin {} }",
             "cgroup: 'a' workers { completed: true cpu_time_ns: 20 wall_time_ns: 100 }"
             "workers { work_index: 1 completed: true cpu_time_ns: 80 wall_time_ns: 100 }",
             "max_spread_pct: 5", ktstr::v1::PASS, "", ""},
        Case{"WakeLatencyPasses", kSleep,
             "cgroup: 'a' workers { completed: true wake_samples_total: 2 wake_latencies_ns: [1000, 2000] }",
             "max_p99_wake_latency: '2us' min_wake_samples: 2", ktstr::v1::PASS, "", ""},
        Case{"WakeLatencyFails", kSleep,
             "cgroup: 'a' workers { completed: true wake_samples_total: 2 wake_latencies_ns: [1000, 2001] }",
             "max_p99_wake_latency: '2us' min_wake_samples: 2", ktstr::v1::FAIL, "wake-latency",
             "99th percentile of 2 wake latencies in step 'load' is 2 us; at most 2 us is allowed"},
        Case{"FewSamplesAreInconclusive", kSleep,
             "cgroup: 'a' workers { completed: true wake_samples_total: 2 wake_latencies_ns: [1000, 9000000] "
             "}",
             "max_p99_wake_latency: '2us'", ktstr::v1::INCONCLUSIVE, "few-samples",
             "2 wake latencies in step 'load' are too few for a 99th percentile; at least 100 are needed"},
        Case{"NoSleepersNoJudgement", kSpin, "cgroup: 'a' workers { completed: true }",
             "max_p99_wake_latency: '2us'", ktstr::v1::PASS, "", ""}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Checks, FailureBeatsInconclusiveAndComesFirst) {
  const Judgement judgement = judge_one(kSleep, "cgroup: 'a' workers { completed: true wall_time_ns: 5 }",
                                        "max_p99_wake_latency: '2us' not_starved: true");
  EXPECT_EQ(judgement.verdict, ktstr::v1::FAIL);
  ASSERT_EQ(judgement.reasons.size(), 2U);
  EXPECT_EQ(judgement.reasons[0].kind(), "starved");
  EXPECT_EQ(judgement.reasons[1].kind(), "few-samples");
}

TEST(Checks, LostWorkersAreWarningsWhenNothingIsChecked) {
  const Judgement judgement = judge_one(kSpin, "cgroup: 'a' workers { tid: 6 exit_info: 'exited 1' }", "");
  ASSERT_EQ(judgement.warnings.size(), 1U);
  EXPECT_NE(judgement.warnings[0].find("exited 1"), std::string::npos);
}

TEST(Checks, HostileWorkIndexIsHarmless) {
  const Judgement judgement = judge_one(kSpin, "cgroup: 'a' workers { work_index: 4000000000 }",
                                        "not_starved: true max_spread_pct: 1");
  EXPECT_EQ(judgement.verdict, ktstr::v1::FAIL);
}

TEST(LatencyPool, WeighsSamplesByWhatTheyStandFor) {
  ktstr::v1::WorkerReport thinned;  // 99,000 fast wake-ups, of which one sample is left
  thinned.set_wake_samples_total(99000);
  thinned.add_wake_latencies_ns(10);
  ktstr::v1::WorkerReport slow;
  for (int i = 0; i < 100; ++i) slow.add_wake_latencies_ns(1000);
  slow.set_wake_samples_total(100);
  LatencyPool pool;
  pool.add(thinned);
  pool.add(slow);
  EXPECT_EQ(pool.size(), 101U);
  EXPECT_EQ(pool.percentile(0.99), 10U);
  EXPECT_EQ(pool.percentile(1), 1000U);
}

TEST(LatencyPool, PercentileIsTheLeastValueNotExceededByThatPart) {
  ktstr::v1::WorkerReport worker;
  for (std::uint64_t i = 1; i <= 100; ++i) worker.add_wake_latencies_ns(i);
  LatencyPool pool;
  pool.add(worker);
  EXPECT_EQ(pool.percentile(0.5), 50U);
  EXPECT_EQ(pool.percentile(0.99), 99U);
  EXPECT_EQ(LatencyPool().percentile(0.99), 0U);
}

}  // namespace
}  // namespace ktstr::guest
