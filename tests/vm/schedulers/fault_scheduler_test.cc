// ktstr-sched on real kernels: healthy without options, and with each fault the end that it promises.
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

struct Fault {
  const char* name;
  const char* arguments;
  int exit_code;
  const char* text;  // in the first reason
};

void PrintTo(const Fault& fault, std::ostream* out) {
  *out << fault.arguments;
}

// The packaged series with sched_ext, and 6.12 as scripts/build-kernel makes it
// (KTSTR_TEST_KERNEL_612_BUILT); those that nobody has fetched are skipped.
constexpr const char* kSeries[] = {"6.12_BUILT", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3"};

class FaultScheduler : public VmTest {
 protected:
  VmRun run_sched(const std::string& series, const std::string& arguments) const {
    return run_seeded(series, {"--scheduler", environment("KTSTR_SCHED"), "--scheduler-args", arguments,
                               "--duration", "5s"});
  }
};

class FaultSchedulerFaults : public FaultScheduler, public ::testing::WithParamInterface<Fault> {};
class FaultSchedulerHealthy : public FaultScheduler, public ::testing::WithParamInterface<const char*> {};

TEST_P(FaultSchedulerHealthy, Passes) {
  KTSTR_NEEDS(folder, kernel(GetParam()));
  const VmRun run = run_sched(GetParam(), "");
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(run.result["guest"]["scheduler"]["ops"].get<std::string>().find("ktstr_sched"), 0U);
  EXPECT_TRUE(run.result["guest"]["scheduler"]["clean_exit"].get<bool>()) << run.describe();
}

INSTANTIATE_TEST_SUITE_P(Series, FaultSchedulerHealthy, ::testing::ValuesIn(kSeries), [](const auto& test) {
  std::string name = test.param;
  name.erase(name.find('.'), 1);
  return name;
});

TEST_P(FaultSchedulerFaults, EndsAsPromisedOn72) {
  KTSTR_NEEDS(folder, kernel("7.2"));
  const VmRun run = run_sched("7.2", GetParam().arguments);
  ASSERT_EQ(run.exit_code, GetParam().exit_code) << run.describe();
  EXPECT_NE(run.reason_text().find(GetParam().text), std::string::npos) << run.describe();
}

TEST_P(FaultSchedulerFaults, EndsAsPromisedOn618) {
  KTSTR_NEEDS(folder, kernel("6.18"));
  const VmRun run = run_sched("6.18", GetParam().arguments);
  ASSERT_EQ(run.exit_code, GetParam().exit_code) << run.describe();
  EXPECT_NE(run.reason_text().find(GetParam().text), std::string::npos) << run.describe();
}

TEST_P(FaultSchedulerFaults, EndsAsPromisedOn612) {
  KTSTR_NEEDS(folder, kernel("6.12_BUILT"));
  const VmRun run = run_sched("6.12_BUILT", GetParam().arguments);
  ASSERT_EQ(run.exit_code, GetParam().exit_code) << run.describe();
  EXPECT_NE(run.reason_text().find(GetParam().text), std::string::npos) << run.describe();
}

constexpr Fault kFaults[] = {
    {"Stall", "--stall-after 1 --timeout-ms 2000", 4, "runnable task stall"},
    {"StallOnBpf", "--stall-after 1 --timeout-ms 2000 --hold-on bpf", 4, "runnable task stall"},
    {"HoldEvery", "--hold-every 100 --timeout-ms 2000", 4, "runnable task stall"},
    {"Error", "--error-after 1", 4, "ktstr_sched: error on request after"},
    {"BadDispatch", "--bad-dispatch=1", 4, "non-existent DSQ 0xbad"},
    {"ExitAfter", "--exit-after 1", 4, "unregistered from user space"},
    {"FailVerify", "--fail-verify", 12, "cannot load the BPF programs"},
    {"BadOption", "--no-such-thing", 12, "unknown option"},
};

INSTANTIATE_TEST_SUITE_P(Each, FaultSchedulerFaults, ::testing::ValuesIn(kFaults),
                         [](const auto& test) { return std::string(test.param.name); });

// What the scheduler prints at an error is the kernel's own dump, with our lines in it.
TEST_F(FaultScheduler, PrintsTheKernelsDump) {
  KTSTR_NEEDS(folder, kernel("7.2"));
  const VmRun run = run_sched("7.2", "--stall-after 1 --timeout-ms 2000");
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  std::ifstream log(run.folder / "scheduler.log");
  const std::string text{std::istreambuf_iterator<char>(log), {}};
  for (const char* line :
       {"DEBUG DUMP", "CPU states", "ktstr_sched: held=", "EXIT: runnable task stall", "exit kind 1026"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

}  // namespace
}  // namespace ktstr::vmtest
