#include "guest/init/init_supervisor.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/unit/guest/init_pair.h"

namespace ktstr::guest {
namespace {

using namespace std::chrono_literals;
using Wake = Supervisor::Wake;

constexpr auto kLong = 60s;

class InitSupervisorTest : public testing::Test {
 protected:
  InitSupervisorTest() : supervisor_(*InitSupervisor::create(FramePort(host_.take_guest_fd()))) {}
  static MonotonicTime soon() { return monotonic_now() + kLong; }
  void send_stop() {
    v1::Frame frame;
    frame.mutable_stop()->set_reason("enough");
    host_.send(frame);
  }
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
  v1::Frame frame;
  frame.mutable_start_plan()->mutable_plan()->set_run_id("first");
  host_.send(frame);
  frame.mutable_start_plan()->mutable_plan()->set_run_id("second");
  host_.send(frame);
  supervisor_->wait_until(monotonic_now() + 1ms);
  const auto plan = supervisor_->take_plan();
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->run_id(), "first");
  EXPECT_FALSE(supervisor_->take_plan());
  EXPECT_EQ(supervisor_->warnings().size(), 1U);
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
