#include "host/run/guard.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

using namespace std::chrono_literals;

GuardLimits limits() {
  return {.boot = 60s, .silence = 30s, .attach = 100s, .scenario = 20s, .finish = 10s};
}

GuardSample at(std::chrono::nanoseconds host, std::uint64_t progress,
               Session::Phase phase = Session::Phase::kBooting) {
  GuardSample sample;
  sample.host_time = host;
  sample.progress = progress;
  sample.phase = phase;
  return sample;
}

std::uint64_t guest(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time.count());
}

TEST(Guard, ABootThatTalksButNeverArrivesEndsAtTheBootLimit) {
  Guard guard(limits());
  std::uint64_t progress = 0;
  for (auto now = 1s; now <= 60s; now += 1s) ASSERT_FALSE(guard.look(at(now, ++progress)));
  const auto trip = guard.look(at(61s, ++progress));
  ASSERT_TRUE(trip);
  EXPECT_EQ(trip->kind, GuardTrip::Kind::kBoot);
}

TEST(Guard, SilenceIsNoticed) {
  Guard guard(limits());
  ASSERT_FALSE(guard.look(at(1s, 5, Session::Phase::kScenario)));
  ASSERT_FALSE(guard.look(at(31s, 5, Session::Phase::kScenario)));
  const auto trip = guard.look(at(32s, 5, Session::Phase::kScenario));
  ASSERT_TRUE(trip);
  EXPECT_EQ(trip->kind, GuardTrip::Kind::kSilence);
}

TEST(Guard, TimeSpentWaitingForAHostCpuDoesNotCount) {
  Guard guard(limits());
  GuardSample sample = at(1000s, 5, Session::Phase::kScenario);
  sample.vcpu_waited = 990s;
  EXPECT_FALSE(guard.look(sample));
  EXPECT_EQ(guard.machine_time(), 10s);
}

TEST(Guard, WaitingTimeBeyondHostTimeIsNotBelieved) {
  Guard guard(limits());
  GuardSample sample = at(1s, 1);
  sample.vcpu_waited = 500s;
  EXPECT_FALSE(guard.look(sample));
  EXPECT_EQ(guard.machine_time(), 0s);
  sample.host_time = 11s;
  EXPECT_FALSE(guard.look(sample));
  EXPECT_EQ(guard.machine_time(), 10s);
}

TEST(Guard, ScenarioLimitCountsGuestTime) {
  Guard guard(limits());
  GuardSample sample = at(10000s, 1, Session::Phase::kScenario);
  sample.vcpu_waited = 10000s;
  sample.scenario_start_ns = guest(5s);
  sample.guest_ns = guest(24s);
  EXPECT_FALSE(guard.look(sample));
  sample.guest_ns = guest(26s);
  const auto trip = guard.look(sample);
  ASSERT_TRUE(trip);
  EXPECT_EQ(trip->kind, GuardTrip::Kind::kScenario);
}

TEST(Guard, AttachAndFinishHaveLimitsOfTheirOwn) {
  Guard attach(limits());
  GuardSample sample = at(1s, 1, Session::Phase::kAttaching);
  sample.plan_accepted_ns = guest(2s);
  sample.guest_ns = guest(103s);
  ASSERT_TRUE(attach.look(sample));

  Guard finish(limits());
  sample.scenario_start_ns = guest(3s);
  sample.scenario_end_ns = guest(8s);
  sample.phase = Session::Phase::kFinishing;
  sample.guest_ns = guest(19s);
  const auto trip = finish.look(sample);
  ASSERT_TRUE(trip);
  EXPECT_EQ(trip->kind, GuardTrip::Kind::kFinish);
}

TEST(Guard, AGuestTimeThatRunsBackwardsIsHarmless) {
  Guard guard(limits());
  GuardSample sample = at(1s, 1, Session::Phase::kScenario);
  sample.scenario_start_ns = UINT64_MAX;
  sample.guest_ns = 5;
  EXPECT_FALSE(guard.look(sample));
}

TEST(Guard, AGoodbyeWithoutPowerOffEnds) {
  Guard guard(limits());
  ASSERT_FALSE(guard.look(at(1s, 1, Session::Phase::kBye)));
  ASSERT_FALSE(guard.look(at(11s, 2, Session::Phase::kBye)));
  ASSERT_TRUE(guard.look(at(12s, 3, Session::Phase::kBye)));
}

GuardSample active(std::chrono::nanoseconds real, std::chrono::nanoseconds active) {
  GuardSample sample = at(0s, 1, Session::Phase::kScenario);
  sample.real_time = real;
  sample.vcpu_active = active;
  return sample;
}

TEST(Guard, AMachineThatNeitherRunsNorWaitsIsAFaultOfTheHost) {
  GuardLimits patient = limits();
  patient.standstill = 50s;
  Guard guard(patient);
  ASSERT_FALSE(guard.look(active(1s, 1s)));
  ASSERT_FALSE(guard.look(active(51s, 1s)));
  const auto trip = guard.look(active(52s, 1s));
  ASSERT_TRUE(trip);
  EXPECT_EQ(trip->kind, GuardTrip::Kind::kStandstill);
}

TEST(Guard, AMachineThatOnlyWaitsForACpuHasNotStoodStill) {
  GuardLimits patient = limits();
  patient.standstill = 50s;
  Guard guard(patient);
  for (auto now = 1s; now < 500s; now += 10s) ASSERT_FALSE(guard.look(active(now, now)));
}

TEST(Guard, WithoutFiguresOfTheVcpusThereIsNoStandstill) {
  Guard guard(limits());
  ASSERT_FALSE(guard.look(active(1s, 0s)));
  ASSERT_FALSE(guard.look(active(10000s, 0s)));
}

TEST(Guard, GuestTimeCountsAtEveryFrame) {
  const Guard guard(limits());
  GuardSample sample = at(0s, 1, Session::Phase::kScenario);
  sample.scenario_start_ns = guest(1s);
  sample.guest_ns = guest(21s);
  EXPECT_FALSE(guard.look_at_guest_time(sample));
  sample.guest_ns = guest(21s) + 1;
  const auto trip = guard.look_at_guest_time(sample);
  ASSERT_TRUE(trip);
  EXPECT_EQ(trip->kind, GuardTrip::Kind::kScenario);
}

// Seconds for the writing of a core, for example.
TEST(Guard, TimeInWhichWeKeptTheGuestFrozenDoesNotCount) {
  GuardLimits strict = limits();
  strict.standstill = 20s;
  Guard guard(strict);
  const auto sample = [](std::chrono::nanoseconds real, std::chrono::nanoseconds still) {
    GuardSample one = at(real, 1, Session::Phase::kScenario);
    one.real_time = real;
    one.stood_still = still;
    one.vcpu_active = 1s;
    return one;
  };
  EXPECT_FALSE(guard.look(sample(1s, 0s)));
  EXPECT_FALSE(guard.look(sample(101s, 95s)));
  EXPECT_EQ(guard.machine_time(), 6s);
  EXPECT_FALSE(guard.look(sample(201s, 190s)));
  EXPECT_EQ(guard.machine_time(), 11s);
  // What is left counts as ever.
  const auto trip = guard.look(sample(215s, 190s));
  ASSERT_TRUE(trip);
  EXPECT_EQ(trip->kind, GuardTrip::Kind::kStandstill);
}

TEST(Guard, CpuTimeHasNoFrozenPart) {
  Guard guard(limits());
  GuardSample sample = at(10s, 1, Session::Phase::kScenario);
  sample.host_time_is_cpu_time = true;
  sample.real_time = 100s;
  sample.stood_still = 60s;
  EXPECT_FALSE(guard.look(sample));
  EXPECT_EQ(guard.machine_time(), 10s);
}

TEST(Guard, FrozenTimeThatRunsBackwardsOrAheadIsHarmless) {
  Guard guard(limits());
  GuardSample sample = at(1s, 1);
  sample.stood_still = 50s;
  EXPECT_FALSE(guard.look(sample));
  EXPECT_EQ(guard.machine_time(), 0s);
  sample.host_time = 3s;
  sample.stood_still = 0s;
  EXPECT_FALSE(guard.look(sample));
  EXPECT_EQ(guard.machine_time(), 2s);
}

}  // namespace
}  // namespace ktstr
