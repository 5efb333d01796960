// Every table through ACPI's own tools: disassembled by iasl, compiled again, and compared. Skipped by name
// where iasl (package acpica-tools) is not installed.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_acpi/guest_tables.h"

namespace ktstr::kvm {
namespace {

using namespace testing;
namespace fs = std::filesystem;

// Runs a program without input in `folder`; its exit code (-1: not started) and all output.
std::pair<int, std::string> run(const fs::path& folder, std::vector<std::string> arguments) {
  const fs::path log = folder / "log";
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  pid_t child = 0;
  const int error = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return {-1, ""};
  int status = 0;
  if (waitpid(child, &status, 0) != child) return {-1, ""};
  std::ifstream in(log);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128,
          std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>())};
}

class Iasl : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "ktstr-iasl-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    if (run(folder_, {"iasl", "-v"}).first != 0)
      GTEST_SKIP() << "iasl is not installed (package acpica-tools)";
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  void check(const Machine& machine) {
    const auto made = make_acpi_tables(machine.plan);
    ASSERT_TRUE(made);
    for (const auto& [signature, table] : guest_tables(*made)) {
      SCOPED_TRACE(signature);
      check_table(signature, table);
    }
  }

  static std::vector<std::byte> read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    const View bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
  }

  fs::path folder_;

 private:
  void check_table(const std::string& signature, const std::vector<std::byte>& table) {
    const std::string binary = signature + ".dat", source = signature + ".dsl", again = signature + ".aml";
    {
      std::ofstream out(folder_ / binary, std::ios::binary);
      for (const std::byte b : table) out.put(static_cast<char>(b));
    }
    const auto [undone, undone_log] = run(folder_, {"iasl", "-d", binary});
    EXPECT_EQ(undone, 0) << undone_log;
    EXPECT_EQ(undone_log.find("rror"), std::string::npos) << undone_log;
    EXPECT_EQ(undone_log.find("arning"), std::string::npos) << undone_log;
    const auto [compiled, log] = run(folder_, {"iasl", "-we", source});
    EXPECT_EQ(compiled, 0) << log;
    EXPECT_NE(log.find(" 0 Errors, 0 Warnings, 0 Remarks"), std::string::npos) << log;
    // The compiler puts its own name and version into the header, which changes the checksum.
    std::vector<std::byte> first = table, second = read(folder_ / again);
    ASSERT_EQ(first.size(), second.size());
    for (std::vector<std::byte>* bytes : {&first, &second}) {
      (*bytes)[9] = {};
      std::fill(bytes->begin() + 28, bytes->begin() + 36, std::byte{});
    }
    EXPECT_EQ(first, second);
  }
};

TEST_F(Iasl, OneCpu) {
  check(Machine({}));
}

TEST_F(Iasl, TwoNodesTwoLlcsEachWithSmt) {
  check(Machine({.numa_nodes = 2, .llcs = 4, .cores_per_llc = 2, .threads_per_core = 2}, 8192));
}

TEST_F(Iasl, MemoryOnlyNodeWithHmat) {
  check(Machine(cxl_topology()));
}

TEST_F(Iasl, ThreeHundredCpus) {
  check(Machine({.numa_nodes = 2, .llcs = 6, .cores_per_llc = 50}));
}

TEST_F(Iasl, TheSourceNamesTheDevices) {
  const Machine machine({});
  const auto made = make_acpi_tables(machine.plan);
  ASSERT_TRUE(made);
  const std::vector<std::byte> dsdt = guest_tables(*made).at("DSDT");
  {
    std::ofstream out(folder_ / "dsdt.dat", std::ios::binary);
    for (const std::byte b : dsdt) out.put(static_cast<char>(b));
  }
  ASSERT_EQ(run(folder_, {"iasl", "-d", "dsdt.dat"}).first, 0);
  const std::vector<std::byte> bytes = read(folder_ / "dsdt.dsl");
  std::string text;
  for (const std::byte b : bytes) text += static_cast<char>(b);
  for (const char* expected :
       {"Name (_S5, Package (0x04)", "EisaId (\"PNP0501\")", "IO (Decode16,", "0x03F8,",
        "Name (_HID, \"LNRO0005\")", "Memory32Fixed (ReadWrite,", "0xD0001000,         // Address Base",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )", "0x00000006,"}) {
    EXPECT_NE(text.find(expected), std::string::npos) << expected << "\n" << text;
  }
}

}  // namespace
}  // namespace ktstr::kvm
