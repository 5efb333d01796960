// Whole runs on the kvm machine. They need a real KVM: scripts/nested-kvm has one, and sets KTSTR_TEST_ACCEL.
#include <fstream>

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
  // Of [{"name": ..., "value": ...}, ...].
  static std::uint64_t sum_of(const nlohmann::json& counters) {
    std::uint64_t sum = 0;
    for (const auto& counter : counters) sum += counter["value"].get<std::uint64_t>();
    return sum;
  }
};

// Long enough for all of its steps where the host has little time for a guest in a guest.
TEST_F(Kvm, SteadyPassesUnderEevdf) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_on("7.2", {"--duration", "6s"});
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(run.result["host"]["machine"], "kvm");
  EXPECT_EQ(run.result["guest"]["facts"]["cpus_online"], 2);
  // What only this machine tells: the clock that can be held, why vCPUs came out of the guest, KVM's
  // counters.
  EXPECT_EQ(run.result["guest"]["facts"]["clocksource"], "kvm-clock");
  const auto& statistics = run.result["host"]["statistics"];
  EXPECT_GT(sum_of(statistics["exits_to_hello"]), 0U) << run.describe();
  EXPECT_GE(sum_of(statistics["exits"]), sum_of(statistics["exits_to_hello"]));
  ASSERT_EQ(statistics["vcpus"].size(), 2U);
  for (const auto& vcpu : statistics["vcpus"]) {
    EXPECT_GT(vcpu["ran_ns"].get<std::uint64_t>(), 0U);
    EXPECT_GT(sum_of(vcpu["kvm"]), 0U) << vcpu;
  }
}

// Quiet, and still within the exits that a guest with a console on a UART needs.
TEST_F(Kvm, AQuietKernelComesToHelloWithinAThousandExits) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_on("7.2", {"--duration", "1s", "--append", "quiet"});
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_LE(sum_of(run.result["host"]["statistics"]["exits_to_hello"]), 1000U) << run.describe();
}

TEST_F(Kvm, MoreVcpusThanTheHostHasCpusIsSaid) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  const VmRun run = run_on("7.2", {"--duration", "1s", "--cpus", "3"});
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_TRUE(run.result["host"]["overcommitted"].get<bool>()) << run.describe();
  // None of them spins while others wait for its CPU.
  for (const auto& vcpu : run.result["host"]["statistics"]["vcpus"]) {
    ASSERT_GT(sum_of(vcpu["kvm"]), 0U);
    for (const auto& counter : vcpu["kvm"]) EXPECT_NE(counter["name"], "halt_attempted_poll") << vcpu;
  }
}

// Huge pages that were set aside, a CPU for each vCPU, and a thread before all others: with a real kernel.
TEST_F(Kvm, HugePagesAPinnedVcpuAndAPriority) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  constexpr const char* kPool = "/proc/sys/vm/nr_hugepages";
  constexpr std::uint64_t kPages = 256;  // 512 MiB
  std::ofstream(kPool) << kPages << "\n";
  std::uint64_t there = 0;
  std::ifstream(kPool) >> there;
  if (there < kPages) GTEST_SKIP() << "not available: " << kPages << " huge pages";
  const VmRun run = run_on("7.2", {"--duration", "1s", "--cpus", "1", "--memory", "512M", "--pages",
                                   "hugetlb", "--pin-vcpus", "0", "--vcpu-fifo", "1"});
  std::ofstream(kPool) << "0\n";
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  const auto& use = run.result["plan"]["machine"]["host_use"];
  EXPECT_EQ(use["vcpu_cpus"], nlohmann::json::parse("[0]")) << use;
  // The kernel has read of it in CPUID: arch/x86/kernel/kvm.c, kvm_spinlock_init().
  std::ifstream log(run.folder / "console.log");
  const std::string console{std::istreambuf_iterator<char>(log), {}};
  EXPECT_NE(console.find("KVM_HINTS_REALTIME"), std::string::npos) << run.describe();
}

TEST_F(Kvm, SteadyPassesUnderScxSimple) {
  KTSTR_NEEDS(kernel_72, kernel("7.2"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  const VmRun run = run_on("7.2", {"--duration", "6s", "--scheduler", scheduler});
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
  EXPECT_EQ(dump.header().trapped_by(), std::string(traps) == "port" ? "port trap" : "hardware breakpoint");
  EXPECT_TRUE(dump.header().clock_held().starts_with("kvmclock")) << dump.header().clock_held();
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
