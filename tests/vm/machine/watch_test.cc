// Watchpoints of the kvm machine, with a real kernel whose PID 1 writes 1 to 20 to panic_timeout.
#include <cstring>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "host/kernel/symbol_sources.h"
#include "host/machine/kvm/kvm_machine.h"
#include "tests/vm/machine/machine_harness.h"

namespace ktstr::test {
namespace {

using Kind = MachineEvent::Kind;
using kvm::KvmMachine;
using kvm::Watchpoint;

class WatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_accel() != AccelChoice::kKvm) GTEST_SKIP() << "of the kvm machine";
    kernel_ = test_kernel();
    if (!kernel_) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 does not name a kernel folder";
    auto symbols = find_symbols(*kernel_);
    ASSERT_TRUE(symbols) << symbols.error().to_string();
    watched_ = symbols->table.address("panic_timeout").value_or(0);
    setregid_ = symbols->table.address("__sys_setregid").value_or(0);
    ASSERT_NE(watched_, 0u);
  }

  // nokaslr: kernel data is where it was linked, at the start of kernel text's mapping of physical memory.
  int value_now(MachineUnderTest& machine) const {
    constexpr std::uint64_t kStartKernelMap = 0xffffffff80000000;
    int value = -1;
    for (const RamRegion& region : machine->ram()) {
      const std::uint64_t gpa = watched_ - kStartKernelMap;
      if (gpa >= region.gpa && gpa - region.gpa + sizeof(value) <= region.host.size())
        std::memcpy(&value, region.host.data() + (gpa - region.gpa), sizeof(value));
    }
    return value;
  }

  static KvmMachine& kvm_machine(MachineUnderTest& machine) { return dynamic_cast<KvmMachine&>(*machine); }

  std::optional<KernelImage> kernel_;
  std::uint64_t watched_ = 0;
  std::uint64_t setregid_ = 0;
};

TEST_F(WatchTest, EveryWriteIsSeen) {
  MachineUnderTest machine(test_boot_spec(*kernel_, "writes"));
  ASSERT_TRUE(kvm_machine(machine).set_watchpoints({{.address = watched_, .size = 4}}));
  ASSERT_TRUE(machine.start());
  std::vector<int> values;
  std::vector<std::uint64_t> by_cpu(2, 0);
  for (std::size_t seen = 0;; ++seen) {
    ASSERT_TRUE(machine.run_until([&] { return machine.events.size() > seen; })) << machine.serial;
    const MachineEvent& event = machine.events[seen];
    if (event.kind == Kind::kPoweredOff) break;
    ASSERT_EQ(event.kind, Kind::kWritten) << event.detail;
    EXPECT_EQ(event.address, watched_);
    ASSERT_LT(event.cpu, 2u);
    // The kernel's own start writes as well: boot parameters, panic= of our command line.
    const int value = value_now(machine);
    if (machine.serial.find("INIT") != std::string::npos) {
      values.push_back(value);
      ++by_cpu[event.cpu];
    }
    ASSERT_TRUE(machine->resume());
  }
  std::vector<int> all;
  for (int i = 1; i <= 20; ++i) all.push_back(i);
  EXPECT_EQ(values, all);
  EXPECT_EQ(by_cpu, (std::vector<std::uint64_t>{10, 10}));
  EXPECT_NE(machine.serial.find("WROTE 20"), std::string::npos) << machine.serial;
}

TEST_F(WatchTest, NothingIsSeenOfOtherPlacesOrAfterTheyAreTakenAway) {
  MachineUnderTest machine(test_boot_spec(*kernel_, "writes"));
  // A neighbour of what is written, and what is written until the first hit.
  ASSERT_TRUE(kvm_machine(machine).set_watchpoints(
      {{.address = watched_ + 4, .size = 4}, {.address = watched_, .size = 1}}));
  ASSERT_TRUE(machine->set_traps({setregid_}));  // shares the debug registers
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until([&] { return !machine.events.empty(); })) << machine.serial;
  EXPECT_EQ(machine.events[0].kind, Kind::kWritten) << machine.events[0].detail;
  EXPECT_EQ(machine.events[0].address, watched_);
  ASSERT_TRUE(kvm_machine(machine).set_watchpoints({}));
  ASSERT_TRUE(machine->resume());
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end) << machine.serial;
  EXPECT_EQ(end->kind, Kind::kPoweredOff) << end->detail;
  EXPECT_EQ(machine.events.size(), 2u);
}

TEST_F(WatchTest, WhatNoCpuCanWatchIsRefused) {
  MachineUnderTest machine(test_boot_spec(*kernel_, "writes"));
  KvmMachine& kvm = kvm_machine(machine);
  EXPECT_TRUE(kvm.set_watchpoints(std::vector<Watchpoint>(3, {.address = watched_, .size = 4})));
  for (const auto& wrong : {std::vector<Watchpoint>(4, {.address = watched_, .size = 4}),
                            std::vector<Watchpoint>{{.address = watched_, .size = 3}},
                            std::vector<Watchpoint>{{.address = watched_, .size = 16}},
                            std::vector<Watchpoint>{{.address = watched_ + 1, .size = 4}}}) {
    const auto set = kvm.set_watchpoints(wrong);
    ASSERT_FALSE(set);
    EXPECT_EQ(set.error().code(), ErrorCode::kUsage);
  }
}

}  // namespace
}  // namespace ktstr::test
