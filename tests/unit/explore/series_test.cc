#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include <gtest/gtest.h>

#include "host/explore/jobs_plan.h"
#include "host/explore/run_series.h"
#include "host/explore/series_report.h"
#include "tests/unit/common/scratch_dir.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

TEST(JobsPlan, AsManyAsCpusAndMemoryCarry) {
  const HostRoom room{.cpus = 8, .memory_bytes = 8 * kGiB};
  EXPECT_EQ(plan_jobs({}, 100, {.vcpus = 2, .memory_bytes = kGiB / 2}, room).jobs, 4U);
  EXPECT_EQ(plan_jobs({}, 3, {.vcpus = 2, .memory_bytes = kGiB / 2}, room).jobs, 3U);
  EXPECT_EQ(plan_jobs({}, 100, {.vcpus = 1, .memory_bytes = 2 * kGiB}, room).jobs, 3U);
  EXPECT_EQ(plan_jobs(2, 100, {.vcpus = 2, .memory_bytes = kGiB / 2}, room).jobs, 2U);
  // One there always is.
  EXPECT_EQ(
      plan_jobs({}, 100, {.vcpus = 64, .memory_bytes = 64 * kGiB}, {.cpus = 0.5, .memory_bytes = 0}).jobs,
      1U);
}

TEST(JobsPlan, SaysWhyItIsLess) {
  const HostRoom room{.cpus = 4, .memory_bytes = 2 * kGiB};
  const JobsPlan cpus = plan_jobs(5, 100, {.vcpus = 2, .memory_bytes = kGiB / 4}, room);
  EXPECT_EQ(cpus.jobs, 2U);
  EXPECT_EQ(cpus.less_because, "2 at once, not 5: each has 2 vCPUs, and the host 4 CPUs");
  const JobsPlan memory = plan_jobs(3, 100, {.vcpus = 1, .memory_bytes = kGiB}, room);
  EXPECT_EQ(memory.jobs, 1U);
  EXPECT_NE(memory.less_because.find("memory"), std::string::npos) << memory.less_because;
  EXPECT_EQ(plan_jobs(5, 2, {.vcpus = 2, .memory_bytes = kGiB / 4}, room).less_because, "");
  EXPECT_EQ(plan_jobs(UINT32_MAX, 1'000'000, {.vcpus = 0, .memory_bytes = 0}, {1e9, UINT64_MAX}).jobs, 512U);
}

SeriesOutcome outcome(int exit_code, bool started = true) {
  SeriesOutcome one;
  one.scenario = "steady";
  one.exit_code = exit_code;
  one.started = started;
  one.result.set_schema_version(started ? 1 : 0);
  one.result.set_verdict(static_cast<v1::Verdict>(exit_code));
  one.result_path = started ? "/r/" + std::to_string(exit_code) : "";
  return one;
}

TEST(SeriesReport, TheWorstRunCounts) {
  EXPECT_EQ(worst_of({}), nullptr);
  const auto worst = [](const std::vector<int>& codes) {
    std::vector<SeriesOutcome> all;
    for (const int code : codes) all.push_back(outcome(code));
    return worst_of(all)->exit_code;
  };
  EXPECT_EQ(worst({0, 0}), 0);
  EXPECT_EQ(worst({0, 21, 0}), 21);
  EXPECT_EQ(worst({21, 20, 1, 0}), 1);
  EXPECT_EQ(worst({1, 4}), 4);
  EXPECT_EQ(worst({4, 3, 5}), 3);
  EXPECT_EQ(worst({0, 77}), 77);
  const std::vector<SeriesOutcome> ended = {outcome(0), outcome(0, false)};
  EXPECT_TRUE(worst_of(ended)->started);
}

TEST(SeriesReport, TableAndLastLine) {
  std::vector<SeriesOutcome> all = {outcome(0), outcome(4), outcome(0, false)};
  all[0].result.mutable_clone()->set_snapshot("4f0c9152");
  all[0].result.mutable_clone()->set_point("attached");
  all[1].result.add_reasons()->set_kind("scheduler-exit");
  const std::string table = series_table(all);
  EXPECT_NE(table.find("clone, attached"), std::string::npos) << table;
  EXPECT_NE(table.find("scheduler-died: scheduler-exit"), std::string::npos) << table;
  EXPECT_NE(table.find("not started"), std::string::npos) << table;
  EXPECT_EQ(series_final_line(all),
            "ktstr-vm: verdict=scheduler-died reason=scheduler-exit kernel=- buildid=- runs=3 passed=1 "
            "result=/r/4");
}

// Stands in for `ktstr-vm run`: --scenario=CODE[,wait].
constexpr const char* kFake = R"(#!/bin/sh
here=$(dirname "$0")
for word in "$@"; do case "$word" in --scenario=*) scenario=${word#*=} ;; esac; done
echo "$scenario" >> "$here/ran"
code=${scenario%,*}
case "$scenario" in
  *,wait)
    sleep 1000 &
    trap 'code=21; kill $!' INT
    : > "$here/ready"
    wait ;;
esac
mkdir -p "$here/$code"
echo '{"schema_version": 1, "verdict": "PASS", "exit_code": '"$code"'}' > "$here/$code/result.json"
[ "$code" = 77 ] && { echo "ktstr-vm: something"; kill -KILL $$; }
echo "ktstr-vm: verdict=x reason=- kernel=- buildid=- result=$here/$code/result.json"
exit "$code"
)";

class SeriesTest : public testing::Test {
 protected:
  SeriesTest() {
    program_ = scratch_.file("fake", kFake);
    std::filesystem::permissions(program_, std::filesystem::perms::owner_all);
  }
  std::vector<SeriesOutcome> run(const std::vector<std::string>& scenarios, unsigned jobs) {
    std::vector<SeriesRun> runs;
    for (const std::string& scenario : scenarios)
      runs.push_back({.scenario = scenario, .arguments = {"--scenario=" + scenario}});
    StatusLine status(log_, false);
    return run_series(program_, runs, jobs, status);
  }
  ~SeriesTest() override { std::fclose(log_); }

  test::ScratchDir scratch_;
  std::string program_;
  std::FILE* log_ = std::tmpfile();
};

TEST_F(SeriesTest, EachRunHasItsOutcome) {
  const auto outcomes = run({"0", "4", "77", "1"}, 2);
  ASSERT_EQ(outcomes.size(), 4U);
  EXPECT_EQ(outcomes[0].exit_code, 0);
  EXPECT_EQ(outcomes[1].exit_code, 4);
  EXPECT_EQ(outcomes[1].result_path, scratch_.path("4/result.json"));
  EXPECT_EQ(outcomes[1].result.schema_version(), 1U);
  EXPECT_EQ(outcomes[1].words, "");
  EXPECT_EQ(outcomes[2].exit_code, 20);
  EXPECT_EQ(outcomes[2].words, "ktstr-vm: something\n");
  EXPECT_EQ(outcomes[3].exit_code, 1);
  EXPECT_GT(outcomes[3].took.count(), 0);
}

TEST_F(SeriesTest, AProgramThatIsNotThereIsTroubleOfEachRun) {
  program_ = scratch_.path("absent");
  for (const auto& one : run({"0", "0"}, 1)) {
    EXPECT_EQ(one.exit_code, 20);
    EXPECT_NE(one.words.find("absent"), std::string::npos);
  }
}

TEST_F(SeriesTest, ASignalEndsThoseUnderWayAndStartsNoOther) {
  const pid_t self = ::getpid();
  const pid_t killer = ::fork();
  if (killer == 0) {
    while (::access(scratch_.path("ready").c_str(), F_OK) != 0) ::usleep(1000);
    ::kill(self, SIGINT);
    ::_exit(0);
  }
  const auto outcomes = run({"5,wait", "0"}, 1);
  ::waitpid(killer, nullptr, 0);
  EXPECT_EQ(outcomes[0].exit_code, 21);
  EXPECT_FALSE(outcomes[1].started);
}

}  // namespace
}  // namespace ktstr
