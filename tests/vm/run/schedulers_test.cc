// The main job on real kernels with real schedulers.
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

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

class Steady : public VmTest {};

TEST_F(Steady, PassesUnderEevdf) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_on("7.2", {});
  expect_pass(run, "");
  EXPECT_FALSE(run.result["guest"]["steps"].empty());
}

TEST_F(Steady, PassesUnderEevdfOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  expect_pass(run_on("6.18", {}), "");
}

TEST_F(Steady, PassesUnderSimple) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler}), "simple");
}

TEST_F(Steady, PassesUnderCentral) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_central"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler}), "central");
}

TEST_F(Steady, PassesUnderBpfland) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_bpfland"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler}), "bpfland");
}

TEST_F(Steady, PassesUnderLavd) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler}), "lavd");
}

TEST_F(Steady, PassesUnderLavdOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  expect_pass(run_on("6.18", {"--scheduler", scheduler}), "lavd");
}

TEST_F(Steady, PassesUnderRustyOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_rusty"));
  expect_pass(run_on("6.18", {"--scheduler", scheduler}), "rusty");
}

TEST_F(Steady, RustyOn72DiesWithItsOwnMessage) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, real_scheduler("scx_rusty"));
  const VmRun run = run_on("7.2", {"--scheduler", scheduler});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  EXPECT_NE(run.reason_text().find("kptr already had cpumask"), std::string::npos) << run.describe();
}

TEST_F(Steady, PassesWithKaslr) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_pass(run_on("7.2", {"--scheduler", scheduler, "--kaslr", "--duration", "1s"}), "simple");
}

TEST_F(Steady, TheGuestHasTheTopologyThatWasAskedFor) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_on("7.2", {"--topology", "numa=1,llcs=2,cores=2,threads=1", "--duration", "1s"});
  expect_pass(run, "");
  EXPECT_EQ(run.result["guest"]["facts"]["cpus_online"], 4);
}

// 100 attaches and detaches, 50 on each kernel, without a panic.
class AttachCycles : public VmTest {
 protected:
  void cycle(const std::string& series) const {
    const char* program = std::getenv("KTSTR_ATTACH_CYCLES");
    ASSERT_NE(program, nullptr);
    const VmRun run = run_on(series, {"--scheduler", program, "--scheduler-args", "50 /include/scx_simple",
                                      "--include", example_scheduler("scx_simple"), "--duration", "500ms"});
    EXPECT_EQ(run.exit_code, 0) << run.describe();
    std::ifstream log(run.folder / "scheduler.log");
    const std::string text{std::istreambuf_iterator<char>(log), {}};
    EXPECT_NE(text.find("all 50 cycles done"), std::string::npos) << text << run.describe();
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
  expect_pass(run_on("7.2", {"--scenario", GetParam()}), "");
}

INSTANTIATE_TEST_SUITE_P(Scenarios, Catalog,
                         ::testing::Values("cpuset_isolation", "wakeup_storm", "weights"));

}  // namespace
}  // namespace ktstr::vmtest
