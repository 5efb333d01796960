// Whole runs on the kvm machine. They need a real KVM: scripts/nested-kvm has one, and sets KTSTR_TEST_ACCEL.
#include <gtest/gtest.h>

#include "tests/vm/run/dump_vm_test.h"

namespace ktstr::vmtest {
namespace {

class Kvm : public DumpVmTest {
 protected:
  void SetUp() override {
    DumpVmTest::SetUp();
    if (!on_kvm()) GTEST_SKIP() << "not available: a real KVM (scripts/nested-kvm)";
  }
};

TEST_F(Kvm, SteadyPassesUnderEevdf) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_on("7.2", {"--duration", "2s"});
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(run.result["host"]["machine"], "kvm");
  EXPECT_EQ(run.result["guest"]["facts"]["cpus_online"], 2);
}

TEST_F(Kvm, SteadyPassesUnderScxSimple) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  const VmRun run = run_on("7.2", {"--duration", "2s", "--scheduler", scheduler});
  ASSERT_EQ(run.exit_code, 0) << run.describe();
}

TEST_F(Kvm, ARandomisedKernelIsDumped) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault("7.2", "--error-after 1", {"--kaslr"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  EXPECT_EQ(dump.header().trap_exit_kind(), static_cast<std::uint64_t>(kBpfErrorKind));
  EXPECT_EQ(dump.header().faults(), 0U);
}

class KvmStall : public Kvm, public ::testing::WithParamInterface<std::tuple<const char*, const char*>> {};

TEST_P(KvmStall, IsDumped) {
  const auto& [series, traps] = GetParam();
  KTSTR_NEEDS(kernel_folder, kernel(series));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault(series, "--stall-after 1 --timeout-ms 3000", {"--traps", traps});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  expect_complete(dump, kStallKind);
  EXPECT_TRUE(has_finding(dump, "waiting"));
}

// Of one vCPU, and right before the kernel writes its own dump: else this guest, which has no instruction
// clock, goes on in between.
TEST_P(KvmStall, AgreesWithTheKernelsOwnDump) {
  const auto& [series, traps] = GetParam();
  KTSTR_NEEDS(kernel_folder, kernel(series));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = fault(series, "--stall-after 1 --timeout-ms 3000",
                          {"--traps", traps, "--freeze-at", "dump", "--cpus", "1"});
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  expect_complete(dump, kStallKind);
  expect_agrees_with_kernel(dump);
}

// A tracing site at the function's entry (6.18) and one behind an endbr64 (7.2).
INSTANTIATE_TEST_SUITE_P(Kvm, KvmStall,
                         ::testing::Combine(::testing::Values("6.18", "7.2"),
                                            ::testing::Values("breakpoint", "port")),
                         [](const auto& parameters) {
                           std::string name = std::string("On") + std::get<0>(parameters.param) + "By" +
                                              std::get<1>(parameters.param);
                           std::erase(name, '.');
                           return name;
                         });

}  // namespace
}  // namespace ktstr::vmtest
