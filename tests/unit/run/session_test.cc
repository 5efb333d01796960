#include "host/run/session.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

using ktstr::v1::Frame;

class SessionTest : public ::testing::Test {
 protected:
  void feed(std::string_view bytes) { session.feed(std::as_bytes(std::span(bytes))); }
  void send(const Frame& frame) { feed(encoder.encode(frame.SerializeAsString())); }

  static Frame report(std::uint32_t step, const std::string& cgroup, int workers) {
    Frame frame;
    frame.mutable_step_report()->set_index(step);
    frame.mutable_step_report()->mutable_cgroup()->set_cgroup(cgroup);
    for (int i = 0; i < workers; ++i) frame.mutable_step_report()->mutable_cgroup()->add_workers();
    return frame;
  }
  static Frame note(const std::string& text) {
    Frame frame;
    frame.mutable_note()->set_level(ktstr::v1::Note::WARNING);
    frame.mutable_note()->set_text(text);
    return frame;
  }

  FrameEncoder encoder;
  Session session{{}};
};

TEST_F(SessionTest, PartsOfACgroupsReportAreOneCgroup) {
  send(report(0, "a", 3));
  send(report(0, "b", 1));
  send(report(0, "a", 2));
  Frame times;
  times.mutable_step_report()->mutable_step()->set_name("first");
  times.mutable_step_report()->mutable_step()->set_start_ns(5);
  send(times);
  ASSERT_EQ(session.guest().steps_size(), 1);
  const auto& step = session.guest().steps(0);
  EXPECT_EQ(step.name(), "first");
  EXPECT_EQ(step.start_ns(), 5U);
  ASSERT_EQ(step.cgroups_size(), 2);
  EXPECT_EQ(step.cgroups(0).workers_size(), 5);
  EXPECT_EQ(step.cgroups(1).workers_size(), 1);
}

TEST_F(SessionTest, BackdropAndStepsAreKeptApart) {
  Frame frame = report(0, "a", 1);
  frame.mutable_step_report()->set_backdrop(true);
  send(frame);
  send(report(2, "a", 1));
  EXPECT_EQ(session.guest().backdrop_size(), 1);
  ASSERT_EQ(session.guest().steps_size(), 3);
  EXPECT_EQ(session.guest().steps(0).cgroups_size(), 0);
  EXPECT_EQ(session.guest().steps(2).cgroups_size(), 1);
}

TEST_F(SessionTest, AStepWithAnAbsurdIndexIsLeftOut) {
  send(report(4'000'000'000, "a", 1));
  EXPECT_EQ(session.guest().steps_size(), 0);
}

TEST_F(SessionTest, FramesBehindADamagedLengthArriveOnceTheRestIsGivenUp) {
  std::string damaged = encoder.encode(note("damaged").SerializeAsString());
  damaged[6] = 1;  // 64 KiB more
  feed(damaged);
  send(note("good"));
  EXPECT_EQ(session.guest().warnings_size(), 0);
  session.give_up_incomplete();
  ASSERT_EQ(session.guest().warnings_size(), 1);
  EXPECT_EQ(session.guest().warnings(0), "good");
  EXPECT_EQ(session.stats().lost(), 1U);
  EXPECT_EQ(session.stats().resyncs(), 1U);
  session.give_up_incomplete();
  EXPECT_EQ(session.stats().resyncs(), 1U);
}

TEST_F(SessionTest, ByeTellsWhatIsMissing) {
  send(note("one"));
  static_cast<void>(encoder.encode("lost"));
  static_cast<void>(encoder.encode("lost"));
  Frame bye;
  bye.mutable_bye()->set_frames(3);
  send(bye);
  EXPECT_EQ(session.phase(), Session::Phase::kBye);
  EXPECT_EQ(session.missing_at_bye(), 2U);
  EXPECT_EQ(session.stats().lost(), 2U);
}

TEST_F(SessionTest, WhatIsNoFrameCountsAsLost) {
  feed(encoder.encode("\xff\xff\xff"));
  EXPECT_EQ(session.unparsable(), 1U);
  EXPECT_EQ(session.stats().lost(), 1U);
}

TEST_F(SessionTest, AStreamThatStartsAnewIsABreak) {
  send(note("one"));
  send(note("two"));
  encoder = FrameEncoder();
  send(note("one"));
  EXPECT_EQ(session.stats().breaks(), 1U);
  EXPECT_EQ(session.stats().lost(), 0U);
}

class CloneSessionTest : public SessionTest {
 protected:
  CloneSessionTest() {
    ktstr::v1::GuestFacts facts;
    facts.set_kernel_release("7.2");
    session.expect_clone("nonce", facts);
  }
  static Frame ready(const std::string& nonce) {
    Frame frame;
    frame.mutable_clone_ready()->set_nonce(nonce);
    return frame;
  }
  void answer() {
    encoder = FrameEncoder();
    send(ready("nonce"));
  }
};

TEST_F(CloneSessionTest, WhatTheGuestThatWasKeptHasWrittenIsLeftOut) {
  const std::string half = encoder.encode(note("half of this was sent before").SerializeAsString());
  feed(std::string_view(half).substr(7));
  send(note("stale"));
  send(ready("another clone's"));
  EXPECT_EQ(session.phase(), Session::Phase::kBooting);
  EXPECT_EQ(session.guest_ns(), 0U);
  answer();
  EXPECT_EQ(session.phase(), Session::Phase::kPlanSent);
  send(note("its own"));
  Frame bye;
  bye.mutable_bye()->set_frames(2);
  send(bye);
  EXPECT_EQ(session.guest().facts().kernel_release(), "7.2");
  ASSERT_EQ(session.guest().warnings_size(), 1);
  EXPECT_EQ(session.guest().warnings(0), "its own");
  const auto stats = session.stats();
  EXPECT_EQ(stats.frames(), 3U);
  EXPECT_EQ(stats.lost() + stats.breaks() + stats.resyncs() + stats.skipped_bytes(), 0U);
}

TEST_F(CloneSessionTest, LossesBehindTheFirstFrameCount) {
  send(note("stale"));
  send(note("stale"));
  answer();
  static_cast<void>(encoder.encode("lost"));
  send(note("own"));
  EXPECT_EQ(session.stats().lost(), 1U);
  Frame bye;
  bye.mutable_bye()->set_frames(5);
  send(bye);
  EXPECT_EQ(session.missing_at_bye(), 3U);
}

TEST_F(CloneSessionTest, ACrashIsHeardAtAnyTime) {
  Frame crash;
  crash.mutable_init_crash()->set_reason("SIGSEGV");
  send(crash);
  EXPECT_TRUE(session.init_crash());
}

TEST_F(SessionTest, WaitingAndProgressArePassedOn) {
  std::vector<int> waits;
  std::uint64_t taken = 0;
  Session listening({.on_hello = {},
                     .on_waiting = [&](ktstr::v1::Waiting::For what) { waits.push_back(what); },
                     .on_file_progress = [&](std::uint64_t bytes) { taken = bytes; },
                     .on_scheduler_output = {},
                     .on_event = {}});
  Frame frame;
  frame.mutable_waiting()->set_what(ktstr::v1::Waiting::SCENARIO);
  std::string bytes = encoder.encode(frame.SerializeAsString());
  frame.mutable_file_progress()->set_bytes(7);
  bytes += encoder.encode(frame.SerializeAsString());
  listening.feed(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(waits, std::vector<int>{ktstr::v1::Waiting::SCENARIO});
  EXPECT_EQ(taken, 7U);
}

TEST_F(SessionTest, BehindAClosedGateNothingIsTaken) {
  std::vector<std::uint64_t> seen;
  session.set_frame_gate([&seen](std::string_view payload, const Frame& frame) {
    EXPECT_FALSE(payload.empty());
    seen.push_back(frame.guest_ns());
    return frame.guest_ns() < 2;
  });
  for (std::uint64_t ns = 1; ns <= 3; ++ns) {
    Frame frame = note(std::to_string(ns));
    frame.set_guest_ns(ns);
    send(frame);
  }
  EXPECT_EQ(seen, (std::vector<std::uint64_t>{1, 2}));
  ASSERT_EQ(session.guest().warnings_size(), 1);
  EXPECT_EQ(session.guest().warnings(0), "1");
}

}  // namespace
}  // namespace ktstr
