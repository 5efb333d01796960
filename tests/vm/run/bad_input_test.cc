// What users get wrong: the right exit code, a message that says what would be right, and nothing left
// behind.
#include <cstdlib>
#include <fstream>
#include <optional>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

class BadInput : public VmTest {
 protected:
  std::string file(const std::string& name, const std::string& content) const {
    const fs::path path = folder() / name;
    std::ofstream(path, std::ios::binary) << content;
    return path.string();
  }
  // Runs; expects `code`, `words` on standard error, and that no results folder was made.
  void expect(std::vector<std::string> arguments, int code, const std::string& words) const {
    const VmRun result = run(std::move(arguments));
    EXPECT_EQ(result.exit_code, code) << result.describe();
    EXPECT_NE(result.err.find(words), std::string::npos) << "expected: " << words << "\n"
                                                         << result.describe();
    EXPECT_TRUE(result.last_line.starts_with("ktstr-vm: verdict=")) << result.out;
    EXPECT_FALSE(fs::exists(folder() / "out")) << "a results folder was left behind";
  }
};

class BadInputWithKernel : public BadInput {
 protected:
  void SetUp() override {
    VmTest::SetUp();
    if (kernel("7.2").empty()) GTEST_SKIP() << "not available: kernel 7.2";
  }
  void expect_with_kernel(std::vector<std::string> arguments, int code, const std::string& words) const {
    arguments.insert(arguments.begin(), {"--kernel", kernel("7.2")});
    expect(std::move(arguments), code, words);
  }
  // The packaged bzImage.
  static fs::path image() {
    for (const auto& entry : fs::recursive_directory_iterator(kernel("7.2"))) {
      if (entry.path().filename().string().starts_with("vmlinuz") && entry.is_regular_file())
        return entry.path();
    }
    return {};
  }
};

TEST_F(BadInput, NoKernel) {
  expect({}, 2, "--kernel");
}
TEST_F(BadInput, UnknownOption) {
  expect({"--kernal", "x"}, 2, "--kernel");
}
TEST_F(BadInput, NoSuchKernel) {
  expect({"--kernel", "/nonexistent/bzImage"}, 2, "/nonexistent/bzImage");
}
TEST_F(BadInput, ATextFileIsNoKernel) {
  expect({"--kernel", file("k", "hello\n")}, 2, "text file");
}
TEST_F(BadInput, AnEmptyFileIsNoKernel) {
  expect({"--kernel", file("k", "")}, 2, "k'");
}
TEST_F(BadInput, A32BitElf) {
  std::string elf(
      "\x7f"
      "ELF\x01\x01\x01",
      7);
  elf.resize(64);
  elf[16] = 2;
  elf[18] = 3;
  expect({"--kernel", file("k", elf)}, 2, "32-bit");
}
TEST_F(BadInput, AnArm64Image) {
  std::string image(4096, '\0');
  image.replace(0x38, 4, "ARM\x64");
  expect({"--kernel", file("k", image)}, 2, "aarch64");
}
TEST_F(BadInput, UnderBisectUsageStopsTheBisection) {
  expect({"--kernel", "/nonexistent", "--bisect"}, 128, "/nonexistent");
}

TEST_F(BadInputWithKernel, ATruncatedImage) {
  std::ifstream whole(image(), std::ios::binary);
  std::string bytes(4 << 20, '\0');
  whole.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  expect({"--kernel", file("bzImage", bytes)}, 2, "truncated");
}
TEST_F(BadInputWithKernel, NoSuchScheduler) {
  expect_with_kernel({"--scheduler", "scx_nonsense"}, 2, "scx_nonsense");
}
TEST_F(BadInputWithKernel, AScenarioWithASyntaxError) {
  expect_with_kernel({"--scenario", file("s.textproto", "steps {\n  name: x\n}\n")}, 2, "s.textproto:2:9");
}
TEST_F(BadInputWithKernel, AnUnknownWorkType) {
  expect_with_kernel(
      {"--scenario", file("s.textproto", "steps { cgroups { name: \"a\" works { workers: 1 spni {} } } }\n")},
      2, "did you mean 'spin'?");
}
TEST_F(BadInputWithKernel, ACpusetOutsideTheTopology) {
  expect_with_kernel(
      {"--scenario",
       file("s.textproto",
            "steps { cgroups { name: \"a\" cpuset: \"0-7\" works { workers: 1 spin {} } } }\n")},
      2, "s.textproto:1:29");
}
TEST_F(BadInputWithKernel, ZeroWorkers) {
  expect_with_kernel(
      {"--scenario", file("s.textproto", "steps { cgroups { name: \"a\" works { workers: 0 spin {} } } }\n")},
      2, "worker");
}
TEST_F(BadInputWithKernel, NotANumber) {
  expect_with_kernel(
      {"--scenario",
       file("s.textproto",
            "steps { hold { frac: nan } cgroups { name: \"a\" works { workers: 1 spin {} } } }\n")},
      2, "s.textproto:1:");
}
TEST_F(BadInputWithKernel, ADurationWithoutUnit) {
  expect_with_kernel({"--duration", "5"}, 2, "unit is missing");
}
TEST_F(BadInputWithKernel, MoreMemoryThanTheHostHas) {
  expect_with_kernel({"--memory", "500T"}, 20, "memory");
}
TEST_F(BadInputWithKernel, MoreCpusThanTheMachineCanHave) {
  expect_with_kernel({"--cpus", "4000"}, 20, "4000");
}
TEST_F(BadInputWithKernel, AnUnwritableResultsFolder) {
  const VmRun result = run_on("7.2", {"--out", file("plain", "x") + "/out"});
  EXPECT_EQ(result.exit_code, 20) << result.describe();
  EXPECT_NE(result.err.find("plain/out"), std::string::npos) << result.err;
}
TEST_F(BadInputWithKernel, AKvmThatIsNoneIsRefusedWithAReason) {
  // In a mount namespace of its own, another device takes the place of /dev/kvm.
  const std::string program = environment("KTSTR_VM");
  const std::string wrapper = file(
      "ktstr-vm",
      "#!/bin/sh\nexec unshare -m sh -c 'mount --bind /dev/null /dev/kvm || exit 99; exec \"$0\" \"$@\"' '" +
          program + "' \"$@\"\n");
  fs::permissions(wrapper, fs::perms::owner_all);
  if (!fs::exists("/dev/kvm")) GTEST_SKIP() << "not available: /dev/kvm";
  ::setenv("KTSTR_VM", wrapper.c_str(), 1);
  expect_with_kernel({"--accel", "kvm"}, 20, "looking at /dev/kvm");
  ::setenv("KTSTR_VM", program.c_str(), 1);
}
TEST_F(BadInputWithKernel, NoEmulatorNamesThePackage) {
  // A cache and a PATH without QEMU.
  const char* path = std::getenv("PATH");
  const std::string old_path = path == nullptr ? "" : path;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const std::optional<std::string> old_cache =
      cache == nullptr ? std::nullopt : std::optional<std::string>(cache);
  ::setenv("PATH", folder().c_str(), 1);
  ::setenv("XDG_CACHE_HOME", folder().c_str(), 1);
  expect_with_kernel({}, 20, "qemu-system-x86");
  ::setenv("PATH", old_path.c_str(), 1);
  if (old_cache)
    ::setenv("XDG_CACHE_HOME", old_cache->c_str(), 1);
  else
    ::unsetenv("XDG_CACHE_HOME");
}
TEST_F(BadInputWithKernel, ASeedIsAWholeNumber) {
  expect_with_kernel({"--deterministic=soon"}, 2, "'soon': the seed is a whole number");
}
TEST_F(BadInputWithKernel, ARealCpuIsNotDeterministic) {
  expect_with_kernel({"--deterministic", "--accel", "kvm"}, 2, "exclude each other");
}
TEST_F(BadInputWithKernel, AnOldEmulatorIsNotDeterministic) {
  const std::string old = file("qemu-old", "#!/bin/sh\necho 'QEMU emulator version 7.2.19 (Debian)'\n");
  fs::permissions(old, fs::perms::owner_all);
  ::setenv("KTSTR_QEMU", old.c_str(), 1);
  expect_with_kernel({"--deterministic=3"}, 2, "needs QEMU 10 or newer");
  ::unsetenv("KTSTR_QEMU");
}
TEST_F(BadInputWithKernel, ReplayWantsADeterministicRun) {
  expect({"replay", (folder() / "nothing").string()}, 2, "result.json");
  fs::create_directory(folder() / "run");
  std::ofstream(folder() / "run" / "result.json") << R"({"schema_version": 1, "verdict": "pass"})";
  expect({"replay", (folder() / "run").string()}, 2, "was not deterministic");
  std::ofstream(folder() / "run" / "result.json") << "{ \"verdict\": ";
  expect({"replay", (folder() / "run").string()}, 2, "no result of a run");
}
TEST_F(BadInput, AnExplorationThatCannotBeginLeavesNoFolder) {
  const VmRun result = run({"explore", "--seeds", "2", "--kernel", "/nonexistent/bzImage"});
  EXPECT_EQ(result.exit_code, 2) << result.describe();
  EXPECT_NE(result.err.find("/nonexistent/bzImage"), std::string::npos) << result.err;
  for (const auto& entry : fs::directory_iterator(folder() / "out")) ADD_FAILURE() << entry.path();
}

TEST_F(BadInputWithKernel, AKernelOptionThatIsMissingIsNamed) {
  expect_with_kernel({"--scenario", file("s.textproto",
                                         "requirements { config: \"CONFIG_SCHED_CORE_NO_SUCH\" }\n"
                                         "steps { cgroups { name: \"a\" works { workers: 1 spin {} } } }\n")},
                     11, "CONFIG_SCHED_CORE_NO_SUCH");
}

// Not an error, but runs nothing either.
TEST_F(BadInputWithKernel, ExplainPrintsThePlanAndLeavesNothing) {
  const VmRun result = run_on("7.2", {"--explain"});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  for (const char* part : {"/init", "ktstr.v1.RunPlan", "console=ttyS0", "-accel tcg", "steady"}) {
    EXPECT_NE(result.out.find(part), std::string::npos) << part << "\n" << result.out;
  }
  EXPECT_FALSE(fs::exists(folder() / "out"));
}

}  // namespace
}  // namespace ktstr::vmtest
