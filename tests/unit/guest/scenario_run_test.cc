#include "guest/scenario/scenario_run.h"

#include <signal.h>

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "guest/cgroup/recording_cgroups.h"
#include "tests/unit/guest/fake_supervisor.h"

namespace ktstr::guest {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Runs scenarios with recorded cgroups and real workers. `events` has cgroup calls and frames in their order.
class ScenarioRunTest : public ::testing::Test {
 protected:
  ScenarioRunTest() {
    cgroups_.observer = [this](const std::string& line) { events_.push_back(line); };
    supervisor_.observer = [this](const ktstr::v1::Frame& frame) { events_.push_back(name_of(frame)); };
  }
  static std::string name_of(const ktstr::v1::Frame& frame) {
    switch (frame.body_case()) {
      case ktstr::v1::Frame::kScenarioStart:
        return "ScenarioStart";
      case ktstr::v1::Frame::kStepStart:
        return "StepStart " + frame.step_start().name();
      case ktstr::v1::Frame::kStepEnd:
        return "StepEnd " + std::to_string(frame.step_end().index());
      case ktstr::v1::Frame::kStepReport:
        return (frame.step_report().backdrop() ? "BackdropReport " : "StepReport ") +
               frame.step_report().cgroup().cgroup();
      case ktstr::v1::Frame::kScenarioEnd:
        return "ScenarioEnd";
      default:
        return "?";
    }
  }
  ScenarioOutcome run(const std::string& text, WorkerGroup::Patience patience = kPatient) {
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &scenario_)) << text;
    ScenarioRun run(scenario_, 4, cgroups_, supervisor_, 0, patience);
    return run.run();
  }
  // Ends the first wait that has a deadline in the future, which is the first hold when nobody needs waiting
  // for otherwise.
  void end_during_hold(Supervisor::Wake wake) {
    supervisor_.script = [this, wake](MonotonicTime) -> std::optional<Supervisor::Wake> {
      const bool started = !supervisor_.frames.empty() &&
                           supervisor_.frames.back().body_case() == ktstr::v1::Frame::kStepStart;
      over_ = over_ || started;
      return over_ ? std::optional(wake) : std::nullopt;
    };
  }
  const ktstr::v1::StepReport& first_report() const {
    for (const auto& frame : supervisor_.frames) {
      if (frame.has_step_report()) return frame.step_report();
    }
    return ktstr::v1::StepReport::default_instance();
  }
  bool has_event(const std::string& event) const {
    return std::find(events_.begin(), events_.end(), event) != events_.end();
  }

  // What a machine that builds something else on every CPU needs at worst; no test waits for it.
  static constexpr WorkerGroup::Patience kPatient{seconds(120), seconds(120), seconds(120), milliseconds(0)};

  ktstr::v1::Scenario scenario_;
  RecordingCgroups cgroups_;
  FakeSupervisor supervisor_;
  std::vector<std::string> events_;
  bool over_ = false;
};

constexpr const char* kOneStep = R"(
  duration: "40ms"
  steps { name: "load" cgroups { name: "a" works { workers: 2 spin {} } } }
)";

TEST_F(ScenarioRunTest, OrderOfThings) {
  const ScenarioOutcome outcome = run(R"(
    duration: "1h"
    backdrop { cgroups { name: "back" cpuset: "0-3" works { workers: 1 spin {} } } }
    steps { name: "one" hold { fixed: "20ms" }
            cgroups { name: "a" cpu_weight: 300 works { workers: 1 spin {} } }
            cgroups { name: "b" works { workers: 1 spin {} } } }
    steps { hold { fixed: "10ms" } }
  )");
  EXPECT_EQ(outcome.verdict, ktstr::v1::PASS);
  EXPECT_TRUE(outcome.reasons.empty());
  EXPECT_TRUE(outcome.warnings.empty());
  EXPECT_THAT(events_,
              ElementsAre("set_up cpu cpuset", "ScenarioStart", "create back", "set back cpuset.cpus 0-3",
                          "attach back", "create a", "set a cpu.weight 300", "create b", "attach a",
                          "attach b", "StepStart one", "StepEnd 0", "StepReport a", "StepReport b",
                          "remove b", "remove a", "StepStart step1", "StepEnd 1", "StepReport ",
                          "BackdropReport back", "remove back", "ScenarioEnd", "tear_down"));
  EXPECT_TRUE(supervisor_.children.empty());
  EXPECT_FALSE(supervisor_.iteration_source);
  EXPECT_THAT(supervisor_.phases,
              ElementsAre("setting up the scenario", "step 1/2 'one'", "step 2/2 'step1'"));
}

TEST_F(ScenarioRunTest, StepTimesAreThoseOfTheHold) {
  std::uint64_t hold = 0;
  run(kOneStep);
  for (const auto& frame : supervisor_.frames) {
    if (frame.has_step_start()) {
      hold = frame.step_start().hold_ns();
      EXPECT_EQ(frame.step_start().workers(), 2U);
    }
  }
  EXPECT_EQ(hold, 40'000'000U);
  const ktstr::v1::StepResult& step = first_report().step();
  EXPECT_EQ(step.name(), "load");
  EXPECT_EQ(step.end_ns() - step.start_ns(), hold + step.hold_overshoot_ns());
}

TEST_F(ScenarioRunTest, StepEndCarriesTheCountersOfThatInstant) {
  std::uint64_t at_end = 0;
  supervisor_.script = [&](MonotonicTime) -> std::optional<Supervisor::Wake> {
    if (supervisor_.frames.empty() || !supervisor_.frames.back().has_step_start()) return std::nullopt;
    while ((at_end = supervisor_.iteration_source()) == 0) supervisor_.wait_until(monotonic_now(), -1, true);
    return Supervisor::Wake::kDeadline;
  };
  run(kOneStep);
  for (const auto& frame : supervisor_.frames) {
    if (frame.has_step_end()) {
      EXPECT_GE(frame.step_end().iterations(), at_end);
    }
  }
  EXPECT_GT(at_end, 0U);
  EXPECT_TRUE(has_event("StepEnd 0"));
}

TEST_F(ScenarioRunTest, HoldsAreClampedToTheDuration) {
  run(R"(
    duration: "40ms"
    backdrop { cgroups { name: "back" works { workers: 1 spin {} } } }
    steps { hold { fixed: "30ms" } }
    steps { hold { fixed: "30ms" } }
  )");
  std::vector<std::uint64_t> holds;
  for (const auto& frame : supervisor_.frames) {
    if (frame.has_step_start()) holds.push_back(frame.step_start().hold_ns());
  }
  ASSERT_FALSE(holds.empty());
  EXPECT_EQ(holds[0], 30'000'000U);
  if (holds.size() == 2) {
    EXPECT_LE(holds[1], 10'000'000U);
  }
}

TEST_F(ScenarioRunTest, StepWithoutTimeLeftIsInconclusive) {
  // The first hold ends late, as under an overloaded host.
  supervisor_.observer = [](const ktstr::v1::Frame& frame) {
    if (!frame.has_step_end()) return;
    const MonotonicTime late = monotonic_now() + milliseconds(20);
    while (monotonic_now() < late) {
    }
  };
  const ScenarioOutcome outcome = run(R"(
    duration: "15ms"
    backdrop { cgroups { name: "back" works { workers: 1 spin {} } } }
    steps { hold { fixed: "10ms" } }
    steps { name: "late" }
  )");
  EXPECT_EQ(outcome.verdict, ktstr::v1::INCONCLUSIVE);
  ASSERT_FALSE(outcome.reasons.empty());
  EXPECT_EQ(outcome.reasons[0].kind(), "no-time");
  EXPECT_EQ(outcome.reasons[0].step(), "late");
}

TEST_F(ScenarioRunTest, BadPlanTouchesNothing) {
  const ScenarioOutcome outcome = run(R"(
    steps { hold { frac: nan } cgroups { name: "a" cpuset: "9" works { workers: 0 spin {} } } }
  )");
  EXPECT_EQ(outcome.verdict, ktstr::v1::USAGE);
  EXPECT_TRUE(events_.empty());
  ASSERT_EQ(outcome.reasons.size(), 3U);
  EXPECT_THAT(outcome.reasons[0].text(), HasSubstr("steps[0].cgroups[0].cpuset"));
}

TEST_F(ScenarioRunTest, TooFewCpusIsNotAUsageError) {
  const ScenarioOutcome outcome =
      run("requirements { cpus: 8 } steps { cgroups { name: 'a' cpuset: '7' "
          "works { workers: 1 spin {} } } }");
  EXPECT_EQ(outcome.verdict, ktstr::v1::KERNEL_LACKS);
}

TEST_F(ScenarioRunTest, MissingControllerEndsItBeforeItStarts) {
  cgroups_.failures["set_up cpu"] = {0, 1, ErrorCode::kKernelLacks};
  const ScenarioOutcome outcome =
      run("steps { cgroups { name: 'a' cpu_weight: 5 works { workers: 1 spin {} } } }");
  EXPECT_EQ(outcome.verdict, ktstr::v1::KERNEL_LACKS);
  EXPECT_EQ(outcome.reasons[0].kind(), "setup-failed");
  EXPECT_THAT(events_, ElementsAre("set_up cpu", "tear_down"));
}

TEST_F(ScenarioRunTest, FailedStepKeepsWhatCameBeforeAndCleansUp) {
  cgroups_.failures["create c"] = {ENOSPC};
  const ScenarioOutcome outcome = run(R"(
    duration: "1h"
    steps { hold { fixed: "10ms" } cgroups { name: "a" works { workers: 1 spin {} } } }
    steps { name: "two" cgroups { name: "b" works { workers: 1 spin {} } }
                        cgroups { name: "c" works { workers: 1 spin {} } } }
  )");
  EXPECT_EQ(outcome.verdict, ktstr::v1::HOST_TROUBLE);
  EXPECT_THAT(outcome.reasons[0].text(),
              HasSubstr("create c: No space left on device (while setting up step 'two')"));
  EXPECT_TRUE(has_event("StepReport a"));
  EXPECT_TRUE(has_event("remove b"));
  EXPECT_EQ(events_.back(), "tear_down");
  EXPECT_EQ(events_[events_.size() - 2], "ScenarioEnd");
}

TEST_F(ScenarioRunTest, SchedulerDeathDuringAHoldKillsFirst) {
  end_during_hold(Supervisor::Wake::kSchedulerGone);
  const ScenarioOutcome outcome =
      run("duration: '1h' steps { name: 'load' cgroups { name: 'a' "
          "works { workers: 2 spin {} } } } checks { not_starved: true }");
  EXPECT_EQ(outcome.verdict, ktstr::v1::SCHEDULER_DIED);
  ASSERT_EQ(outcome.reasons.size(), 1U) << "killed workers are not judged";
  EXPECT_THAT(outcome.reasons[0].text(),
              ::testing::MatchesRegex("scheduler died during step 'load' after [0-9.]+ s"));
  EXPECT_FALSE(has_event("StepEnd 0"));
  EXPECT_TRUE(has_event("ScenarioEnd"));
  ASSERT_EQ(first_report().cgroup().workers_size(), 2);
  EXPECT_FALSE(first_report().cgroup().workers(0).completed());
  EXPECT_EQ(first_report().cgroup().workers(0).exit_info(), "killed because the scheduler was gone");
}

TEST_F(ScenarioRunTest, SchedulerDeathBetweenSteps) {
  supervisor_.script = [this](MonotonicTime) -> std::optional<Supervisor::Wake> {
    return has_event("remove a") ? std::optional(Supervisor::Wake::kSchedulerGone) : std::nullopt;
  };
  const ScenarioOutcome outcome = run(R"(
    duration: "1h"
    steps { hold { fixed: "10ms" } cgroups { name: "a" works { workers: 1 spin {} } } }
    steps { name: "two" cgroups { name: "b" works { workers: 1 spin {} } } }
  )");
  EXPECT_EQ(outcome.verdict, ktstr::v1::SCHEDULER_DIED);
  EXPECT_EQ(outcome.reasons[0].text(), "scheduler died before step 'two'");
  EXPECT_FALSE(has_event("create b"));
}

TEST_F(ScenarioRunTest, SchedulerDeathAfterTheLastStep) {
  supervisor_.script = [this](MonotonicTime) -> std::optional<Supervisor::Wake> {
    return has_event("remove a") ? std::optional(Supervisor::Wake::kSchedulerGone) : std::nullopt;
  };
  const ScenarioOutcome outcome = run(kOneStep);
  EXPECT_EQ(outcome.verdict, ktstr::v1::SCHEDULER_DIED);
  EXPECT_EQ(outcome.reasons[0].text(), "scheduler died after the last step");
}

TEST_F(ScenarioRunTest, StopRequestEndsInGoodOrder) {
  end_during_hold(Supervisor::Wake::kStopRequested);
  const ScenarioOutcome outcome =
      run("duration: '1h' steps { name: 'load' cgroups { name: 'a' "
          "works { workers: 2 spin {} } } } checks { not_starved: true }");
  EXPECT_EQ(outcome.verdict, ktstr::v1::INCONCLUSIVE);
  ASSERT_EQ(outcome.reasons.size(), 1U);
  EXPECT_EQ(outcome.reasons[0].kind(), "stopped");
  EXPECT_TRUE(first_report().cgroup().workers(0).completed());
  EXPECT_FALSE(has_event("StepEnd 0"));
  EXPECT_EQ(events_.back(), "tear_down");
}

TEST_F(ScenarioRunTest, WorkersThatNeverGetReadyAreStarved) {
  cgroups_.observer = [this](const std::string& line) {
    events_.push_back(line);
    if (line == "attach a") ::kill(cgroups_.procs("a")->back(), SIGSTOP);
  };
  const ScenarioOutcome outcome =
      run(kOneStep, {milliseconds(50), milliseconds(50), seconds(5), milliseconds(0)});
  EXPECT_EQ(outcome.verdict, ktstr::v1::FAIL);
  EXPECT_EQ(outcome.reasons[0].kind(), "starved");
  EXPECT_THAT(outcome.reasons[0].text(), HasSubstr("2 of 2 workers of step 'load'"));
  EXPECT_FALSE(has_event("StepStart load"));
  EXPECT_FALSE(has_event("StepReport a"));
  EXPECT_TRUE(has_event("remove a"));
}

TEST_F(ScenarioRunTest, BusyCgroupIsKilledAndRemoved) {
  cgroups_.failures["remove a"] = {EBUSY, 1};
  cgroups_.populated["a"] = true;
  const ScenarioOutcome outcome = run(kOneStep);
  EXPECT_EQ(outcome.verdict, ktstr::v1::PASS);
  EXPECT_TRUE(outcome.warnings.empty());
  const std::vector<std::string> tail(events_.end() - 5, events_.end());
  EXPECT_THAT(tail, ElementsAre("remove a", "kill a", "remove a", "ScenarioEnd", "tear_down"));
}

TEST_F(ScenarioRunTest, CgroupThatStaysIsAWarning) {
  cgroups_.failures["remove a"] = {EACCES, 2};
  const ScenarioOutcome outcome = run(kOneStep);
  EXPECT_EQ(outcome.verdict, ktstr::v1::PASS);
  ASSERT_EQ(outcome.warnings.size(), 1U);
  EXPECT_THAT(outcome.warnings[0], HasSubstr("remove a"));
}

TEST_F(ScenarioRunTest, FailedCheckComesWithItsStep) {
  const ScenarioOutcome outcome = run(R"(
    duration: "40ms"
    steps { name: "load" cgroups { name: "a" works { workers: 1 sleep_and_run { sleep: "1h" } } } }
    checks { not_starved: true }
  )");
  EXPECT_EQ(outcome.verdict, ktstr::v1::FAIL);
  ASSERT_EQ(outcome.reasons.size(), 1U);
  EXPECT_EQ(outcome.reasons[0].kind(), "starved");
  EXPECT_EQ(outcome.reasons[0].step(), "load");
}

}  // namespace
}  // namespace ktstr::guest
