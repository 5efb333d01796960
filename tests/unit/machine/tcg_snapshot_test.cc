// What a saved guest and QEMU's answers about it are taken for. QEMU is a thread with the
// answers.
#include "host/machine/tcg/tcg_snapshot.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "host/machine/tcg/pc_memory.h"

namespace ktstr {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// QEMU, as far as one call of ours wants it: each command is a line, and gets the next of these answers.
class Qemu {
 public:
  explicit Qemu(std::vector<std::string> answers) : answers_(std::move(answers)) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    socket_.reset(ends[0]);
    qmp.emplace(UniqueFd(ends[1]));
    thread_ = std::thread([this] { serve(); });
  }
  ~Qemu() {
    qmp.reset();
    thread_.join();
  }
  // What it was asked; the connection is over then.
  std::string heard() {
    qmp.reset();
    thread_.join();
    thread_ = std::thread([] {});
    return heard_;
  }

  std::optional<QmpClient> qmp;

 private:
  void serve() {
    char byte = 0;
    for (std::size_t asked = 0; ::recv(socket_.get(), &byte, 1, 0) == 1;) {
      heard_.push_back(byte);
      if (byte != '\n') continue;
      if (asked == answers_.size()) return;
      const std::string text =
          "{\"return\": " + answers_[asked] + ", \"id\": " + std::to_string(asked + 1) + "}\r\n";
      ++asked;
      if (::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return;
    }
  }

  std::vector<std::string> answers_;
  std::string heard_;
  UniqueFd socket_;
  std::thread thread_;
};

TEST(TcgSnapshot, SavingIsAMigrationWithoutRamAndEndsWhenThatDoes) {
  Qemu qemu({"{}", "{}", R"({"status": "active"})", R"({"status": "completed"})"});
  const auto saved = save_devices(*qemu.qmp, seconds(5));
  EXPECT_TRUE(saved) << saved.error().to_string();
  const std::string asked = qemu.heard();
  EXPECT_NE(asked.find("x-ignore-shared"), std::string::npos) << asked;
  EXPECT_NE(asked.find("file:/proc/self/fd/10"), std::string::npos) << asked;
}

TEST(TcgSnapshot, AMigrationThatFailsSaysWhy) {
  Qemu qemu(
      {"{}", "{}", R"({"status": "failed", "error-desc": "load of migration failed: Invalid argument"})"});
  const auto loaded = load_devices(*qemu.qmp, seconds(5));
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), ErrorCode::kHost);
  EXPECT_NE(loaded.error().to_string().find("Invalid argument"), std::string::npos)
      << loaded.error().to_string();
}

TEST(TcgSnapshot, AMigrationWithoutAnEndIsGivenUp) {
  Qemu qemu({"{}", "{}", R"({"status": "active"})"});
  const auto saved = save_devices(*qemu.qmp, milliseconds(0));
  EXPECT_FALSE(saved);
}

TEST(TcgSnapshot, RamIsWhereQemuSays) {
  Qemu qemu({R"("Host virtual address for 0x0 (ram0) is 0x7f0000000000\r\n")",
             R"("Host virtual address for 0x8000000 (ram1) is 0x7f1000000000\r\n")"});
  const std::array nodes = {128 * kMiB, 64 * kMiB};
  const auto ram = private_ram(*qemu.qmp, 4711, nodes, seconds(5));
  ASSERT_TRUE(ram) << ram.error().to_string();
  ASSERT_EQ(ram->size(), 2U);
  EXPECT_EQ((*ram)[0].gpa, 0U);
  EXPECT_EQ((*ram)[1].gpa, 128 * kMiB);
  EXPECT_EQ((*ram)[1].host.size(), 64 * kMiB);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>((*ram)[1].host.data()), 0x7f1000000000U);
  EXPECT_EQ((*ram)[0].process, 4711);
}

TEST(TcgSnapshot, RamThatQemuDoesNotKnow) {
  Qemu qemu({R"("No memory is mapped at address 0x0\r\n")"});
  const std::array nodes = {128 * kMiB};
  const auto ram = private_ram(*qemu.qmp, 4711, nodes, seconds(5));
  ASSERT_FALSE(ram);
  EXPECT_EQ(ram.error().code(), ErrorCode::kHost);
  EXPECT_NE(ram.error().to_string().find("No memory is mapped"), std::string::npos)
      << ram.error().to_string();
}

TEST(HostAddress, OnlyWhatQemuSays) {
  EXPECT_EQ(parse_host_address("Host virtual address for 0x0 (pc.ram) is 0x7f12\r\n"), 0x7f12U);
  EXPECT_EQ(parse_host_address("Host virtual address for 0x0 (pc.ram) is 0x7f12"), 0x7f12U);
  for (const char* text : {"", "Host virtual address for 0x0 (pc.ram) is 0x",
                           "Host virtual address for 0x0 (pc.ram) is 0x12 and more",
                           "Host virtual address for 0x0 (pc.ram) is 0x11223344556677889",
                           "Memory at address 0x0 is not RAM", "something (pc.ram) is 0x7f12"})
    EXPECT_EQ(parse_host_address(text), std::nullopt) << text;
}

TEST(CopyFile, CopiesAllOrSaysWhy) {
  const UniqueFd from(memfd_create("from", MFD_CLOEXEC)), to(memfd_create("to", MFD_CLOEXEC));
  const std::string text(100'000, 'x');
  ASSERT_EQ(pwrite(from.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  ASSERT_TRUE(copy_file(from.get(), to.get()));
  EXPECT_EQ(lseek(to.get(), 0, SEEK_END), static_cast<off_t>(text.size()));
  const UniqueFd nowhere(open("/dev/full", O_WRONLY | O_CLOEXEC));
  EXPECT_FALSE(copy_file(from.get(), nowhere.get()));
  EXPECT_FALSE(copy_file(-1, to.get()));
}

}  // namespace
}  // namespace ktstr
