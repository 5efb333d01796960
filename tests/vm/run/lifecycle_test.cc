// Signals, and what is left behind.
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/unique_fd.h"
#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

class Lifecycle : public VmTest {
 protected:
  void SetUp() override {
    VmTest::SetUp();
    if (kernel("7.2").empty()) GTEST_SKIP() << "not available: kernel 7.2";
  }
  // A kernel argument that marks the processes of this test. A snapshot with it would serve nobody else.
  std::string marker() const { return "ktstr.test_marker=" + folder().filename().string(); }
  std::vector<std::string> marked(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--append", marker(), "--clone", "never"});
    return arguments;
  }
  VmRun signalled(int signal, const std::string& when, std::vector<std::string> arguments) const {
    return run_on("7.2", marked(std::move(arguments)), [&](pid_t pid) {
      EXPECT_TRUE(wait_for_output(pid, when));
      ::kill(pid, signal);
    });
  }
};

TEST_F(Lifecycle, SigintInTheScenarioGivesAPartialResult) {
  const VmRun run = signalled(SIGINT, "step '", {"--duration", "600s"});
  EXPECT_EQ(run.exit_code, 21) << run.describe();
  EXPECT_EQ(run.reason_kind(), "interrupted");
  ASSERT_TRUE(run.result.is_object()) << run.describe();
  EXPECT_TRUE(run.result["partial"].get<bool>());
  // The guest was asked and answered: its workers' reports are there.
  EXPECT_FALSE(run.result["guest"]["steps"].empty()) << run.describe();
  EXPECT_TRUE(processes_with(marker()).empty());
}

TEST_F(Lifecycle, SigtermDuringTheBootEndsAtOnce) {
  const VmRun run = signalled(SIGTERM, "starting", {});
  EXPECT_EQ(run.exit_code, 21) << run.describe();
  EXPECT_TRUE(processes_with(marker()).empty());
}

TEST_F(Lifecycle, SigintUnderBisectStopsTheBisection) {
  EXPECT_EQ(signalled(SIGINT, "step '", {"--duration", "600s", "--bisect"}).exit_code, 128);
}

TEST_F(Lifecycle, SigkillLeavesNoEmulatorAndNoFile) {
  const auto files = [] {
    std::size_t count = 0;
    for (const char* folder : {"/tmp", "/dev/shm", "/var/tmp"}) {
      std::error_code error;
      for (const auto& entry : fs::directory_iterator(folder, error)) {
        if (entry.path().filename().string().find("ktstr-vm-test") == std::string::npos &&
            entry.path().filename().string().find("ktstr") != std::string::npos) {
          ++count;
        }
      }
    }
    return count;
  };
  const std::size_t before = files();
  std::vector<UniqueFd> emulators;
  const VmRun run = run_on("7.2", marked({"--duration", "600s"}), [&](pid_t pid) {
    ASSERT_TRUE(wait_for_output(pid, "step '"));
    for (const pid_t emulator : processes_with(marker())) {
      if (emulator != pid) emulators.emplace_back(static_cast<int>(::syscall(SYS_pidfd_open, emulator, 0)));
    }
    // The kvm machine is ktstr-vm itself.
    EXPECT_EQ(emulators.empty(), on_kvm());
    ::kill(pid, SIGKILL);
  });
  EXPECT_EQ(run.exit_code, 128 + SIGKILL);
  for (const UniqueFd& emulator : emulators) {
    // A pidfd is readable once its process has ended.
    struct pollfd end = {.fd = emulator.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&end, 1, 10'000), 1) << "the emulator outlived ktstr-vm";
  }
  EXPECT_EQ(files(), before);
}

}  // namespace
}  // namespace ktstr::vmtest
