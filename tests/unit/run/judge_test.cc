#include "host/run/judge.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

using ktstr::v1::Frame;

// Builds the evidence of one run, frame by frame.
class JudgeTest : public ::testing::Test {
 protected:
  void guest(const Frame& frame) {
    const std::string wire = encoder_.encode(frame.SerializeAsString());
    session_.feed(std::as_bytes(std::span(wire.data(), wire.size())));
  }
  void hello(const std::string& build_id = "") {
    Frame frame;
    frame.mutable_hello()->mutable_facts()->set_build_id(build_id);
    guest(frame);
  }
  void scenario() {
    Frame frame;
    frame.set_guest_ns(5);
    frame.mutable_scenario_start();
    guest(frame);
    frame.set_guest_ns(9);
    frame.mutable_scenario_end();
    guest(frame);
  }
  void result(ktstr::v1::Verdict verdict, const std::string& kind = "") {
    Frame frame;
    frame.mutable_result()->set_verdict(verdict);
    if (!kind.empty()) frame.mutable_result()->add_reasons()->set_kind(kind);
    guest(frame);
  }
  void bye() {
    Frame frame;
    frame.mutable_bye()->set_frames(encoder_.count());
    guest(frame);
    machine_end_ = MachineEvent{MachineEvent::Kind::kPoweredOff, ""};
  }
  void console(std::string_view text) { console_.feed(std::as_bytes(std::span(text.data(), text.size()))); }
  Judgement verdict() {
    return judge({.session = session_,
                  .console = console_,
                  .machine_end = machine_end_,
                  .guard_trip = guard_trip_,
                  .interrupted_by = interrupted_by_,
                  .expected_build_id = "abcd",
                  .emulated = emulated_});
  }

  FrameEncoder encoder_;
  Session session_{Session::Callbacks{}};
  ConsoleScanner console_;
  std::optional<MachineEvent> machine_end_;
  std::optional<GuardTrip> guard_trip_;
  std::string interrupted_by_;
  bool emulated_ = true;
};

TEST_F(JudgeTest, AWholeGoodRunPasses) {
  hello("abcd");
  scenario();
  result(ktstr::v1::PASS);
  bye();
  const Judgement judgement = verdict();
  EXPECT_EQ(judgement.verdict, ktstr::v1::PASS);
  EXPECT_TRUE(judgement.reasons.empty());
  EXPECT_FALSE(judgement.partial);
}

TEST_F(JudgeTest, SilenceIsNeverAPass) {
  EXPECT_EQ(verdict().verdict, ktstr::v1::HOST_TROUBLE);
  hello();
  EXPECT_EQ(verdict().verdict, ktstr::v1::HOST_TROUBLE);
  EXPECT_TRUE(verdict().partial);
}

TEST_F(JudgeTest, APassWithoutAScenarioIsInconclusive) {
  hello();
  result(ktstr::v1::PASS);
  bye();
  EXPECT_EQ(verdict().verdict, ktstr::v1::INCONCLUSIVE);
}

TEST_F(JudgeTest, APassWithALostFrameIsInconclusive) {
  hello();
  scenario();
  static_cast<void>(encoder_.encode("lost on the way"));
  result(ktstr::v1::PASS);
  bye();
  EXPECT_EQ(verdict().verdict, ktstr::v1::INCONCLUSIVE);
  EXPECT_EQ(verdict().reasons.at(0).kind(), "frames-lost");
}

TEST_F(JudgeTest, AFailureTheGuestReportsStands) {
  hello();
  scenario();
  result(ktstr::v1::FAIL, "starved");
  bye();
  EXPECT_EQ(verdict().verdict, ktstr::v1::FAIL);
  EXPECT_EQ(verdict().reasons.at(0).kind(), "starved");
}

TEST_F(JudgeTest, APanicOutranksWhatTheGuestSaid) {
  hello();
  scenario();
  result(ktstr::v1::SCHEDULER_DIED, "scheduler-exit");
  console("Kernel panic - not syncing: x\n");
  EXPECT_EQ(verdict().verdict, ktstr::v1::KERNEL_PANIC);
  EXPECT_EQ(verdict().reasons.size(), 2U);
}

TEST_F(JudgeTest, APanicBeforeHelloMeansTheKernelDidNotBoot) {
  console("Kernel panic - not syncing: VFS\n");
  machine_end_ = MachineEvent{MachineEvent::Kind::kReset, ""};
  EXPECT_EQ(verdict().verdict, ktstr::v1::NO_BOOT);
}

TEST_F(JudgeTest, TheEmulatorsFaultIsNotTheKernels) {
  hello();
  console("Oops: int3: 0000 [#1]\nCode: 00 <00>\nKernel panic - not syncing: Fatal exception\n");
  EXPECT_EQ(verdict().verdict, ktstr::v1::HOST_TROUBLE);
  EXPECT_TRUE(verdict().emulator_fault);
}

TEST_F(JudgeTest, ARealProcessorIsNotBlamedForTheKernelsBreakpoint) {
  emulated_ = false;
  hello();
  console("Oops: int3: 0000 [#1]\nCode: 00 <00>\nKernel panic - not syncing: Fatal exception\n");
  EXPECT_EQ(verdict().verdict, ktstr::v1::KERNEL_PANIC);
  EXPECT_FALSE(verdict().emulator_fault);
}

TEST_F(JudgeTest, ATripleFaultsRegistersAreInTheReason) {
  machine_end_ = MachineEvent{MachineEvent::Kind::kReset, "triple fault: vCPU 1: rip 0xffffffff81000000"};
  EXPECT_EQ(verdict().verdict, ktstr::v1::NO_BOOT);
  hello();
  EXPECT_EQ(verdict().verdict, ktstr::v1::KERNEL_PANIC);
  EXPECT_NE(verdict().reasons.at(0).text().find("(triple fault: vCPU 1: rip 0xffffffff81000000)"),
            std::string::npos)
      << verdict().reasons.at(0).text();
}

TEST_F(JudgeTest, TimeoutsAndBootTimeoutsDiffer) {
  guard_trip_ = GuardTrip{GuardTrip::Kind::kBoot, "slow"};
  EXPECT_EQ(verdict().verdict, ktstr::v1::NO_BOOT);
  hello();
  guard_trip_ = GuardTrip{GuardTrip::Kind::kSilence, "silent"};
  EXPECT_EQ(verdict().verdict, ktstr::v1::TIMEOUT);
  EXPECT_EQ(verdict().reasons.at(0).kind(), "guest-silent");
}

TEST_F(JudgeTest, ALockupTurnsAPassIntoAHang) {
  hello();
  scenario();
  result(ktstr::v1::PASS);
  bye();
  console("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n");
  EXPECT_EQ(verdict().verdict, ktstr::v1::TIMEOUT);
}

TEST_F(JudgeTest, AnotherKernelThanTheImageIsNotJudged) {
  hello("ffff");
  scenario();
  result(ktstr::v1::PASS);
  bye();
  EXPECT_EQ(verdict().verdict, ktstr::v1::HOST_TROUBLE);
  EXPECT_EQ(verdict().reasons.at(0).kind(), "wrong-kernel");
}

TEST_F(JudgeTest, AnInterruptedRunIsInconclusiveAndPartial) {
  hello();
  interrupted_by_ = "SIGINT";
  EXPECT_EQ(verdict().verdict, ktstr::v1::INCONCLUSIVE);
  EXPECT_TRUE(verdict().partial);
}

TEST_F(JudgeTest, AVerdictNumberWeDoNotKnowIsNotPassedOn) {
  hello();
  scenario();
  result(static_cast<ktstr::v1::Verdict>(77), "x");
  bye();
  EXPECT_EQ(verdict().verdict, ktstr::v1::INCONCLUSIVE);
}

TEST_F(JudgeTest, AResetOrPowerOffWithoutGoodbyeIsNoResult) {
  hello();
  machine_end_ = MachineEvent{MachineEvent::Kind::kReset, ""};
  EXPECT_EQ(verdict().verdict, ktstr::v1::KERNEL_PANIC);
  machine_end_ = MachineEvent{MachineEvent::Kind::kPoweredOff, ""};
  EXPECT_EQ(verdict().verdict, ktstr::v1::HOST_TROUBLE);
}

}  // namespace
}  // namespace ktstr
