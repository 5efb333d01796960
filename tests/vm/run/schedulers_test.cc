// The main job on real kernels with real schedulers.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

void expect_pass(const VmRun& run, const std::string& ops) {
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_TRUE(run.last_line.starts_with("ktstr-vm: verdict=pass reason=- kernel=")) << run.last_line;
  ASSERT_TRUE(run.result.is_object()) << run.describe();
  EXPECT_EQ(run.result["guest"]["facts"]["build_id"], run.result["plan"]["kernel"]["build_id"]);
  EXPECT_EQ(run.result["host"]["frames"]["lost"], 0);
  if (!ops.empty()) {
    EXPECT_NE(run.result["guest"]["scheduler"]["ops"].get<std::string>().find(ops), std::string::npos)
        << run.describe();
    EXPECT_TRUE(run.result["guest"]["scheduler"]["clean_exit"].get<bool>()) << run.describe();
  }
  // Work was really done: every worker of every step reported progress.
  for (const auto& step : run.result["guest"]["steps"]) {
    for (const auto& cgroup : step["cgroups"]) {
      for (const auto& worker : cgroup["workers"]) EXPECT_GT(worker["work_units"].get<std::uint64_t>(), 0U);
    }
  }
}

// On the deterministic machine, so that a busy host changes nothing.
class Steady : public VmTest {};

// On the ordinary machine: several vCPUs at once, the host's clock.
class Ordinary : public VmTest {};

TEST_F(Ordinary, PassesUnderEevdf) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  expect_pass(run_on("7.2", {}), "");
}

TEST_F(Ordinary, PassesUnderSimple) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler}), "simple");
}

TEST_F(Ordinary, PassesUnderSimpleOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_pass(run_on("6.18", {"--scheduler", scheduler}), "simple");
}

TEST_F(Ordinary, PassesUnderLavd) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler}), "lavd");
}

TEST_F(Steady, PassesUnderEevdf) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_seeded("7.2", {});
  expect_pass(run, "");
  EXPECT_FALSE(run.result["guest"]["steps"].empty());
}

TEST_F(Steady, PassesUnderEevdfOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  expect_pass(run_seeded("6.18", {}), "");
}

TEST_F(Steady, PassesUnderSimple) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_pass(run_seeded("7.2", {"--scheduler", scheduler}), "simple");
}

TEST_F(Steady, PassesUnderCentral) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_central"));
  expect_pass(run_seeded("7.2", {"--scheduler", scheduler}), "central");
}

TEST_F(Steady, PassesUnderBpfland) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_bpfland"));
  expect_pass(run_seeded("7.2", {"--scheduler", scheduler}), "bpfland");
}

TEST_F(Steady, PassesUnderLavd) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  expect_pass(run_seeded("7.2", {"--scheduler", scheduler}), "lavd");
}

TEST_F(Steady, PassesUnderLavdOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  expect_pass(run_seeded("6.18", {"--scheduler", scheduler}), "lavd");
}

TEST_F(Steady, PassesUnderRustyOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_rusty"));
  expect_pass(run_seeded("6.18", {"--scheduler", scheduler}), "rusty");
}

TEST_F(Steady, RustyOn72DiesWithItsOwnMessage) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_rusty"));
  const VmRun run = run_seeded("7.2", {"--scheduler", scheduler});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  EXPECT_NE(run.reason_text().find("kptr already had cpumask"), std::string::npos) << run.describe();
}

TEST_F(Ordinary, PassesWithKaslr) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler, "--kaslr", "--duration", "1s", "--clone", "never"}),
              "simple");
}

TEST_F(Ordinary, TheGuestHasTheTopologyThatWasAskedFor) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_on("7.2", {"--topology", "numa=1,llcs=2,cores=2,threads=1", "--duration", "1s"});
  expect_pass(run, "");
  EXPECT_EQ(run.result["guest"]["facts"]["cpus_online"], 4);
}

TEST_F(Steady, AKernelWithoutSchedExtIsTestedWithItsOwnScheduler) {
  KTSTR_NEEDS(kernel_612, kernel("6.12"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_pass(run_seeded("6.12", {"--duration", "1s"}), "");
  const VmRun run = run_seeded("6.12", {"--scheduler", scheduler});
  EXPECT_EQ(run.exit_code, 11) << run.describe();
  EXPECT_NE(run.err.find("CONFIG_SCHED_CLASS_EXT"), std::string::npos) << run.describe();
  EXPECT_EQ(run_seeded("6.12", {"--scheduler", scheduler, "--bisect"}).exit_code, 125);
}

// What somebody who bisects has: a build tree, and the vmlinux in it. Made of a packaged kernel.
TEST_F(Steady, PassesFromABuildTreeAndFromItsVmlinux) {
  KTSTR_NEEDS(packaged, kernel("7.2"));
  KTSTR_NEEDS(extract, environment("KTSTR_EXTRACT_VMLINUX"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  const auto tree = folder() / "linux";
  fs::create_directories(tree / "arch/x86/boot");
  fs::create_directories(tree / "include/config");
  for (const auto& entry : fs::recursive_directory_iterator(packaged)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file()) continue;
    if (name.starts_with("vmlinuz")) fs::copy(entry.path(), tree / "arch/x86/boot/bzImage");
    if (name == "config" || name.starts_with("config-")) fs::copy(entry.path(), tree / ".config");
  }
  std::ofstream(tree / "include/config/kernel.release") << fs::path(packaged).filename().string() << "\n";
  const std::string command =
      extract + " " + (tree / "arch/x86/boot/bzImage").string() + " " + (tree / "vmlinux").string();
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const std::vector<std::string> rest{"--scheduler", scheduler, "--duration", "500ms"};
  for (const std::string& path : {tree.string(), (tree / "vmlinux").string()}) {
    std::vector<std::string> arguments{"--kernel", path};
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    arguments.push_back("--deterministic=" + seed());
    const VmRun run = this->run(arguments);
    expect_pass(run, "simple");
    EXPECT_EQ(run.result["plan"]["kernel"]["config_source"], (tree / ".config").string());
  }
}

// 100 attaches and detaches, 50 on each kernel, without a panic. Not with an instruction clock: it is several
// threads of vCPUs that change code under each other. Five guests for each kernel, because PID 1 waits for a
// scheduler that was told to end for some 80 s of guest time, which is not many cycles on a busy host.
class AttachCycles : public VmTest {
 protected:
  void cycle(const std::string& series) const {
    for (int guest = 0; guest < 5; ++guest) cycle_ten_times(series);
  }
  void cycle_ten_times(const std::string& series) const {
    const char* program = std::getenv("KTSTR_ATTACH_CYCLES");
    ASSERT_NE(program, nullptr);
    // Of the scenario nothing is wanted but that its workers get some time, also in a guest in a guest.
    const VmRun run =
        run_on(series, {"--scheduler", program, "--scheduler-args", "10 /include/scx_simple", "--include",
                        example_scheduler("scx_simple"), "--duration", on_kvm() ? "6s" : "500ms"});
    EXPECT_EQ(run.exit_code, 0) << run.describe();
    std::ifstream log(run.folder / "scheduler.log");
    const std::string text{std::istreambuf_iterator<char>(log), {}};
    EXPECT_NE(text.find("all 10 cycles done"), std::string::npos) << text << run.describe();
  }
};

TEST_F(AttachCycles, OnKernel72) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  cycle("7.2");
}

TEST_F(AttachCycles, OnKernel618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  cycle("6.18");
}

// The other scenarios of the catalog under EEVDF, which must satisfy all of them.
class Catalog : public VmTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(Catalog, PassesUnderEevdf) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  expect_pass(run_seeded("7.2", {"--scenario", GetParam()}), "");
}

INSTANTIATE_TEST_SUITE_P(Scenarios, Catalog,
                         ::testing::Values("cpuset_isolation", "wakeup_storm", "weights"));

}  // namespace
}  // namespace ktstr::vmtest
