// TcgMachine with programs that only pretend to be QEMU: what happens when it does not come up.
#include "host/machine/tcg/tcg_machine.h"

#include <fcntl.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

namespace fs = std::filesystem;

class TcgMachineTest : public ::testing::Test {
 protected:
  TcgMachineTest() {
    std::string path = fs::temp_directory_path() / "ktstr-tcg-XXXXXX";
    root_ = mkdtemp(path.data());
  }
  ~TcgMachineTest() override { fs::remove_all(root_); }

  std::unique_ptr<TcgMachine> machine(const std::string& body, int major = 10) {
    const fs::path program = root_ / "qemu";
    std::ofstream(program) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(program, fs::perms::owner_all);
    BootSpec spec;
    spec.kernel = UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    spec.command_line = "last=word";
    spec.memory_bytes = 64 * kMiB;
    return std::make_unique<TcgMachine>(
        loop_, std::move(spec),
        Qemu{.path = program, .version = "9.9", .major = major, .firmware_folders = {}}, false);
  }

  boost::asio::io_context loop_;
  fs::path root_;
};

TEST_F(TcgMachineTest, KnowsItsCommandLineBeforeItStarts) {
  const auto tcg = machine("exit 1");
  const auto argv = tcg->emulator().argv;
  ASSERT_FALSE(argv.empty());
  EXPECT_TRUE(argv.back().starts_with("console=ttyS0 ")) << argv.back();
  EXPECT_TRUE(argv.back().ends_with(" last=word")) << argv.back();
  EXPECT_TRUE(tcg->warnings().empty());
  EXPECT_TRUE(tcg->ram().empty());
  EXPECT_EQ(tcg->frames().guest_address(), "virtio:ktstr.frames");
  EXPECT_FALSE(tcg->frames().send("x"));
}

TEST_F(TcgMachineTest, AnOldQemuGetsOneThreadAndAWarning) {
  const auto tcg = machine("exit 1", 7);
  EXPECT_EQ(tcg->warnings().size(), 1U);
  const auto argv = tcg->emulator().argv;
  EXPECT_NE(std::find(argv.begin(), argv.end(), "tcg,thread=single"), argv.end());
}

TEST_F(TcgMachineTest, TrapsCanBeSetBeforeTheStartAndNotAfterTheEnd) {
  const auto tcg = machine("exit 1");
  EXPECT_TRUE(tcg->set_traps({0x1000}));
  EXPECT_FALSE(
      tcg->set_traps(std::vector<std::uint64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}));
  EXPECT_FALSE(tcg->start());
  EXPECT_FALSE(tcg->set_traps({0x1000}));
}

TEST_F(TcgMachineTest, AnEmulatorThatLeavesAtOnceIsAHostErrorWithItsWords) {
  const auto tcg = machine("echo 'qemu: no luck today' >&2; exit 3");
  const auto started = tcg->start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ErrorCode::kHost);
  EXPECT_NE(started.error().to_string().find("exit code 3"), std::string::npos)
      << started.error().to_string();
  EXPECT_EQ(started.error().detail(), "qemu: no luck today");
  EXPECT_TRUE(tcg->ram().empty());
  EXPECT_FALSE(tcg->start()) << "only once";
}

TEST_F(TcgMachineTest, AnImageThatCannotBeBootedIsAUsageError) {
  const auto started = machine("echo \"qemu: could not load kernel '/proc/self/fd/7'\" >&2; exit 1")->start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ErrorCode::kUsage);
}

TEST_F(TcgMachineTest, AnEmulatorThatDoesNotSpeakQmp) {
  const auto tcg = machine("echo hello >&3; exec sleep 1000");
  const auto started = tcg->start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().errno_value(), EPROTO) << started.error().to_string();
  EXPECT_EQ(::kill(tcg->qemu_pid(), 0), -1) << "is left behind";
}

TEST_F(TcgMachineTest, NothingIsDoneBeforeStart) {
  const auto tcg = machine("exit 1");
  EXPECT_FALSE(tcg->pause(std::chrono::seconds(1)));
  EXPECT_FALSE(tcg->resume());
  EXPECT_FALSE(tcg->registers(0));
  EXPECT_EQ(tcg->vcpu_time().used.count(), 0);
  tcg->stop();
  tcg->stop();
}

}  // namespace
}  // namespace ktstr
