// SchedulerSession with shell scripts as schedulers and a folder in place of /sys/kernel/sched_ext.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "guest/init/scheduler_session.h"
#include "tests/unit/guest/init_pair.h"

namespace ktstr::guest {
namespace {

using namespace std::chrono_literals;

// Enables itself, runs on, and leaves in good order on SIGINT.
constexpr const char* kGood = R"(
trap 'echo disabled > state; echo "EXIT: unregistered from user space"; exit 0' INT
echo test > root/ops; echo 8 > enable_seq; echo enabled > state; echo hello
while :; do sleep 0.01; done)";

class SchedulerSessionTest : public testing::Test {
 public:
  SchedulerSessionTest() : supervisor_(*InitSupervisor::create(FramePort(host_.take_guest_fd()))) {
    std::filesystem::create_directories(root_ + "/root");
    std::ofstream(root_ + "/state") << "disabled\n";
    std::ofstream(root_ + "/enable_seq") << "7\n";
  }
  ~SchedulerSessionTest() override { std::filesystem::remove_all(root_); }
  SchedulerSessionTest(const SchedulerSessionTest&) = delete;
  SchedulerSessionTest& operator=(const SchedulerSessionTest&) = delete;

 protected:
  static std::string make_root() {
    std::string name = testing::TempDir() + "scx-session-XXXXXX";
    return ::mkdtemp(name.data());
  }
  SchedulerSession& make(const std::string& script, std::chrono::nanoseconds idle = 60s,
                         std::chrono::nanoseconds cpu = 60s) {
    v1::SchedulerSpec spec;
    spec.set_name("test");
    spec.set_guest_path("/bin/sh");
    spec.add_args("-c");
    spec.add_args("cd " + root_ + " || exit 9\n" + script);
    session_ = std::make_unique<SchedulerSession>(
        *supervisor_, spec, SchedulerSession::AttachLimits{.idle = idle, .cpu = cpu}, ScxStateReader(root_));
    return *session_;
  }
  std::vector<v1::SchedulerUpdate::State> states() {
    std::vector<v1::SchedulerUpdate::State> list;
    output_.clear();
    for (const v1::Frame& frame : host_.receive()) {
      if (frame.has_scheduler()) list.push_back(frame.scheduler().state());
      if (frame.has_output()) output_ += frame.output().data();
    }
    return list;
  }

  using Update = v1::SchedulerUpdate;
  using States = std::vector<Update::State>;
  std::string root_ = make_root();
  test::HostEnd host_;
  std::unique_ptr<InitSupervisor> supervisor_;
  std::unique_ptr<SchedulerSession> session_;
  std::string output_;
};

TEST_F(SchedulerSessionTest, AttachesAndLeavesInGoodOrder) {
  SchedulerSession& session = make(kGood);
  const Expected<> attached = session.attach();
  ASSERT_TRUE(attached) << attached.error().to_string();
  EXPECT_EQ(session.result().ops(), "test");
  EXPECT_TRUE(session.finish());
  EXPECT_TRUE(session.result().clean_exit());
  EXPECT_EQ(session.result().exit_status(), 0);
  EXPECT_EQ(session.result().exit_message(), "");
  EXPECT_EQ(states(), (States{Update::STARTING, Update::ATTACHED, Update::STOPPING, Update::STOPPED}));
  EXPECT_EQ(output_, "hello\nEXIT: unregistered from user space\n");  // raw: no carriage returns
}

TEST_F(SchedulerSessionTest, AnEarlyExitIsAFailedStartWithTheLastLines) {
  SchedulerSession& session = make("echo one; echo 'libbpf: failed to load' >&2; exit 3");
  const Expected<> attached = session.attach();
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code(), ErrorCode::kStartFailed);
  EXPECT_EQ(attached.error().message(),
            "the scheduler exited with status 3 before it was attached: libbpf: failed to load");
  EXPECT_EQ(attached.error().detail(), "one\nlibbpf: failed to load");
  EXPECT_EQ(session.result().exit_status(), 3);
  EXPECT_EQ(states(), (States{Update::STARTING, Update::FAILED}));
}

TEST_F(SchedulerSessionTest, AMissingProgramIsAFailedStart) {
  v1::SchedulerSpec spec;
  spec.set_guest_path("/no/such/scheduler");
  SchedulerSession session(*supervisor_, spec, {.idle = 1s, .cpu = 1s}, ScxStateReader(root_));
  const Expected<> attached = session.attach();
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code(), ErrorCode::kStartFailed);
  EXPECT_EQ(attached.error().errno_value(), ENOENT);
}

TEST_F(SchedulerSessionTest, WithoutSchedExtTheKernelLacksIt) {
  std::filesystem::remove(root_ + "/state");
  const Expected<> attached = make(kGood).attach();
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code(), ErrorCode::kKernelLacks);
}

TEST_F(SchedulerSessionTest, AnIdleSchedulerIsGivenUp) {
  const Expected<> attached = make("trap 'exit 0' INT; echo waiting; sleep 60 & wait", 50ms).attach();
  ASSERT_FALSE(attached);
  EXPECT_TRUE(attached.error().message().starts_with("did not attach: no CPU time used"))
      << attached.error().message();
  EXPECT_EQ(attached.error().detail(), "waiting");
}

TEST_F(SchedulerSessionTest, ABusySchedulerIsGivenUpByItsCpuTime) {
  const Expected<> attached = make("while :; do :; done", 60s, 50ms).attach();
  ASSERT_FALSE(attached);
  EXPECT_TRUE(attached.error().message().starts_with("did not attach: it has used 0."))
      << attached.error().message();
}

TEST_F(SchedulerSessionTest, LeavingRightAfterTheAttachIsADeath) {
  const Expected<> attached =
      make("echo 8 > enable_seq; echo 'EXIT: kptr already had cpumask'; exit 1").attach();
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code(), ErrorCode::kSchedulerDied);
  EXPECT_NE(attached.error().message().find("EXIT: kptr already had cpumask"), std::string::npos);
}

TEST_F(SchedulerSessionTest, ADeathWhileAttachedWakesTheExecutor) {
  SchedulerSession& session = make(std::string("(sleep 0.05; echo disabled > state) &\n") + kGood);
  ASSERT_TRUE(session.attach());
  EXPECT_EQ(supervisor_->wait_until(monotonic_now() + 30s), Supervisor::Wake::kSchedulerGone);
  session.kill();
  EXPECT_FALSE(session.finish());
  EXPECT_EQ(session.result().exit_message(), "the scheduler's process was killed by signal 9 (Killed)");
  EXPECT_FALSE(session.result().clean_exit());
  EXPECT_EQ(states().back(), Update::DIED);
}

TEST_F(SchedulerSessionTest, AStopWhileAttachingIsNoVerdict) {
  v1::Frame stop;
  stop.mutable_stop();
  host_.send(stop);
  const Expected<> attached = make("trap 'exit 0' INT; sleep 60 & wait").attach();
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code(), ErrorCode::kInconclusive);
}

}  // namespace
}  // namespace ktstr::guest
