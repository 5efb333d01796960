#include "guest/init/init_supervisor.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

#include "common/read_file.h"
#include "tests/unit/guest/init_pair.h"

namespace ktstr::guest {
namespace {

using namespace std::chrono_literals;
using Wake = Supervisor::Wake;

constexpr auto kLong = 60s;

class InitSupervisorTest : public testing::Test {
 protected:
  InitSupervisorTest()
      : supervisor_(
            *InitSupervisor::create(FramePort(host_.take_guest_fd()), actions(), FileReceiver(folder_))) {}
  ~InitSupervisorTest() override { std::filesystem::remove_all(folder_); }

  CloneActions actions() {
    return {.set_wall_clock = [this](std::chrono::nanoseconds time) -> Expected<> {
              clock_set_to_ = time;
              return {};
            },
            .reseed = [this](std::string_view seed) -> Expected<> {
              seed_ = seed;
              if (!reseeds_) return fail(ErrorCode::kHost, "no seed today");
              return {};
            }};
  }
  static v1::Frame clone_start() {
    v1::Frame frame;
    frame.mutable_clone_start()->set_nonce(std::string(16, 'n'));
    frame.mutable_clone_start()->set_random_seed(std::string(32, 's'));
    frame.mutable_clone_start()->set_realtime_ns(1'790'000'000'000'000'000U);
    return frame;
  }
  static std::string make_folder() {
    std::string path = (std::filesystem::temp_directory_path() / "ktstr-supervisor-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) ::abort();
    return path;
  }
  static MonotonicTime soon() { return monotonic_now() + kLong; }
  void send_stop() {
    v1::Frame frame;
    frame.mutable_stop()->set_reason("enough");
    host_.send(frame);
  }
  std::string folder_ = make_folder();
  std::chrono::nanoseconds clock_set_to_{};
  std::string seed_;
  bool reseeds_ = true;
  test::HostEnd host_;
  std::unique_ptr<InitSupervisor> supervisor_;
};

TEST_F(InitSupervisorTest, WaitsUntilTheDeadline) {
  const MonotonicTime start = monotonic_now();
  EXPECT_EQ(supervisor_->wait_until(start + 2ms), Wake::kDeadline);
  EXPECT_GE(monotonic_now(), start + 2ms);
}

TEST_F(InitSupervisorTest, APassedDeadlineStillServesOnce) {
  send_stop();
  EXPECT_EQ(supervisor_->wait_until(0ns), Wake::kStopRequested);
}

TEST_F(InitSupervisorTest, ReportsAReadableDescriptorAndLeavesItAlone) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const UniqueFd out(pipe[0]);
  UniqueFd in(pipe[1]);
  ASSERT_EQ(::write(in.get(), "x", 1), 1);
  EXPECT_EQ(supervisor_->wait_until(soon(), out.get()), Wake::kReadable);
  char byte = 0;
  EXPECT_EQ(::read(out.get(), &byte, 1), 1);
  EXPECT_EQ(supervisor_->wait_until(monotonic_now() + 1ms, out.get()), Wake::kDeadline);
  in.reset();
  EXPECT_EQ(supervisor_->wait_until(soon(), out.get()), Wake::kReadable);
}

TEST_F(InitSupervisorTest, StopIsReportedUntilIgnored) {
  send_stop();
  EXPECT_EQ(supervisor_->wait_until(soon()), Wake::kStopRequested);
  EXPECT_EQ(supervisor_->wait_until(soon()), Wake::kStopRequested);
  EXPECT_EQ(supervisor_->wait_until(monotonic_now() + 1ms, -1, true), Wake::kDeadline);
  EXPECT_EQ(supervisor_->stop_reason(), "enough");
}

TEST_F(InitSupervisorTest, AGoneSchedulerComesFirst) {
  supervisor_->set_scheduler_gone();
  send_stop();
  EXPECT_EQ(supervisor_->wait_until(soon()), Wake::kSchedulerGone);
}

TEST_F(InitSupervisorTest, TakesOnePlan) {
  supervisor_->await_plan(v1::Waiting::PLAN);
  v1::Frame frame;
  frame.mutable_start_plan()->mutable_plan()->set_run_id("first");
  host_.send(frame);
  frame.mutable_start_plan()->mutable_plan()->set_run_id("second");
  host_.send(frame);
  supervisor_->wait_until(monotonic_now() + 1ms);
  const auto plan = supervisor_->take_plan();
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->plan().run_id(), "first");
  EXPECT_FALSE(supervisor_->take_plan());
  EXPECT_EQ(supervisor_->warnings().size(), 1U);
  // Unless it waits for another one.
  supervisor_->await_plan(v1::Waiting::SCENARIO);
  host_.send(frame);
  supervisor_->wait_until(monotonic_now() + 1ms);
  EXPECT_EQ(supervisor_->take_plan().value().plan().run_id(), "second");
  const auto sent = host_.receive();
  EXPECT_EQ(sent.front().waiting().what(), v1::Waiting::PLAN);
  EXPECT_EQ(sent.back().waiting().what(), v1::Waiting::SCENARIO);
}

TEST_F(InitSupervisorTest, ACloneStartsItsStreamAnew) {
  supervisor_->note("of the guest that was kept");
  supervisor_->await_plan(v1::Waiting::PLAN);
  host_.send(clone_start());
  supervisor_->wait_until(monotonic_now() + 1ms);
  supervisor_->note("of the clone");
  EXPECT_EQ(clock_set_to_, 1'790'000'000s);
  EXPECT_EQ(seed_, std::string(32, 's'));
  const auto frames = host_.receive();
  ASSERT_EQ(frames.size(), 4U);
  EXPECT_EQ(frames[2].clone_ready().nonce(), std::string(16, 'n'));
  EXPECT_EQ(frames[3].note().text(), "of the clone");
  // The number of CloneReady is 0 again.
  EXPECT_EQ(host_.stats().breaks, 1U);
  EXPECT_EQ(supervisor_->port().frames_sent(), 2U);
}

TEST_F(InitSupervisorTest, WhatACloneCannotDoIsAWarning) {
  reseeds_ = false;
  supervisor_->await_plan(v1::Waiting::PLAN);
  host_.send(clone_start());
  supervisor_->wait_until(monotonic_now() + 1ms);
  ASSERT_EQ(supervisor_->warnings().size(), 1U);
  EXPECT_EQ(supervisor_->warnings()[0], "as a clone: no seed today");
}

TEST_F(InitSupervisorTest, OnlyAWaitingGuestBecomesAClone) {
  host_.send(clone_start());
  v1::Frame absurd = clone_start();
  absurd.mutable_clone_start()->set_nonce("short");
  supervisor_->wait_until(monotonic_now() + 1ms);
  EXPECT_EQ(supervisor_->warnings().size(), 1U);
  supervisor_->await_plan(v1::Waiting::PLAN);
  host_.send(absurd);
  supervisor_->wait_until(monotonic_now() + 1ms);
  EXPECT_EQ(supervisor_->warnings().size(), 2U);
  EXPECT_TRUE(seed_.empty());
  for (const auto& frame : host_.receive()) EXPECT_FALSE(frame.has_clone_ready());
}

TEST_F(InitSupervisorTest, FilesComeBeforeThePlanAndAreAcknowledged) {
  supervisor_->await_plan(v1::Waiting::PLAN);
  v1::Frame frame;
  frame.mutable_file()->set_path("/a/file");
  frame.mutable_file()->set_size(5);
  frame.mutable_file()->set_mode(0640);
  host_.send(frame);
  frame.mutable_file_data()->set_data("hel");
  host_.send(frame);
  supervisor_->wait_until(monotonic_now() + 1ms);
  EXPECT_FALSE(supervisor_->files_problem().empty());
  frame.mutable_file_data()->set_data("lo");
  host_.send(frame);
  supervisor_->wait_until(monotonic_now() + 1ms);
  EXPECT_EQ(supervisor_->files_problem(), "");
  EXPECT_EQ(read_file(folder_ + "/a/file", 100).value(), "hello");
  EXPECT_EQ(host_.receive().back().file_progress().bytes(), 5U);
}

TEST_F(InitSupervisorTest, StrangeFramesAreWarnedOf) {
  host_.send_payload("\xff\xff\xff");
  v1::Frame frame;
  frame.mutable_bye();
  host_.send(frame);
  supervisor_->wait_until(monotonic_now() + 1ms);
  EXPECT_EQ(supervisor_->warnings().size(), 2U);
  EXPECT_FALSE(supervisor_->stop_requested());
}

TEST_F(InitSupervisorTest, WarningsAreBounded) {
  for (int i = 0; i < 1000; ++i) supervisor_->warn("w");
  EXPECT_EQ(supervisor_->warnings().size(), InitSupervisor::kMaxWarnings);
}

TEST_F(InitSupervisorTest, ReapsOrphansButNotAdoptedChildren) {
  const pid_t owned = ::fork();
  if (owned == 0) ::_exit(7);
  supervisor_->adopt_child(owned);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(owned), &info, WEXITED | WNOWAIT), 0);
  const pid_t orphan = ::fork();
  if (orphan == 0) ::_exit(0);
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(orphan), &info, WEXITED | WNOWAIT), 0);
  supervisor_->wait_until(monotonic_now() + 1ms);
  EXPECT_EQ(supervisor_->reaper().reaped(), 1U);
  int status = 0;
  EXPECT_EQ(::waitpid(owned, &status, 0), owned);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST_F(InitSupervisorTest, ScenarioStartIsTold) {
  int calls = 0;
  supervisor_->on_scenario_start([&calls] { ++calls; });
  v1::Frame frame;
  frame.mutable_scenario_start();
  supervisor_->send(frame);
  supervisor_->send(frame);
  EXPECT_EQ(calls, 1);
}

TEST_F(InitSupervisorTest, ByeCountsTheFramesBeforeIt) {
  supervisor_->note("a");
  supervisor_->note("b");
  supervisor_->say_goodbye(1s);
  const auto frames = host_.receive();
  ASSERT_EQ(frames.size(), 3U);
  EXPECT_EQ(frames[2].bye().frames(), 2U);
}

TEST(EventLoop, TimersRunInTheirTimeAndCanBeCancelled) {
  auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  int once = 0;
  int often = 0;
  int never = 0;
  loop->add_timer(monotonic_now(), 0ns, [&once] { ++once; });
  EventLoop::TimerId repeating = 0;
  repeating = loop->add_timer(monotonic_now(), 1us, [&] {
    if (++often == 3) loop->cancel_timer(repeating);
  });
  const auto cancelled = loop->add_timer(monotonic_now(), 0ns, [&never] { ++never; });
  loop->cancel_timer(cancelled);
  for (int i = 0; i < 10; ++i) loop->run_once(monotonic_now() + 1ms);
  EXPECT_EQ(once, 1);
  EXPECT_EQ(often, 3);
  EXPECT_EQ(never, 0);
}

TEST(EventLoop, RegularFilesCannotBeWatched) {
  auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  const UniqueFd file(::open("/proc/self/exe", O_RDONLY));
  const auto watched = loop->watch(file.get(), 1, [](std::uint32_t) {});
  ASSERT_FALSE(watched);
  EXPECT_EQ(watched.error().errno_value(), EPERM);
}

}  // namespace
}  // namespace ktstr::guest
