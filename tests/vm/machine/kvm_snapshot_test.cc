// What only the kvm machine's snapshots have: the clocks of a clone, the split interrupt chip, what a clone
// costs. What both machines have is in snapshot_test.cc.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <thread>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "tests/vm/machine/machine_harness.h"

namespace ktstr::test {
namespace {

using std::chrono::seconds;

class KvmSnapshotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_accel() != AccelChoice::kKvm) GTEST_SKIP() << "of the kvm machine";
    kernel_ = test_kernel();
    if (!kernel_) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 does not name a kernel folder";
    files_.ram.reset(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    files_.state.reset(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    ASSERT_TRUE(files_.ram && files_.state);
  }

  BootSpec clone_of(BootSpec spec) const {
    spec.snapshot = SnapshotFiles{UniqueFd(fcntl(files_.ram.get(), F_DUPFD_CLOEXEC, 3)),
                                  UniqueFd(fcntl(files_.state.get(), F_DUPFD_CLOEXEC, 3))};
    return spec;
  }

  void save_after(MachineUnderTest& machine, const std::string& text, seconds limit = kBootLimit) {
    ASSERT_TRUE(machine.start());
    ASSERT_TRUE(machine.run_until([&] { return machine.serial.find(text) != std::string::npos; }, limit))
        << machine.serial;
    const auto paused = machine->pause(seconds(30));
    ASSERT_TRUE(paused) << paused.error().to_string();
    ASSERT_TRUE(paused->missing.empty());
    const auto saved = machine->save(files_);
    ASSERT_TRUE(saved) << saved.error().to_string();
  }

  std::optional<KernelImage> kernel_;
  SnapshotFiles files_;
};

// A program that reads both clocks without a pause sees no step over the time in the cache, and neither goes
// back.
TEST_F(KvmSnapshotTest, ProgramsOfACloneSeeNoGap) {
  constexpr auto kInTheCache = seconds(4);
  constexpr long long kLargestStep = 1'500'000'000;  // ns: the hosts of these tests are busy
  long long saved_at = 0;
  {
    MachineUnderTest machine(test_boot_spec(*kernel_, "clocks"));
    save_after(machine, "CLOCK ");
    ASSERT_FALSE(HasFailure());
    ASSERT_EQ(std::sscanf(machine.serial.c_str() + machine.serial.rfind("CLOCK "), "CLOCK %lld", &saved_at),
              1);
  }
  std::this_thread::sleep_for(kInTheCache);  // this is what is tested
  MachineUnderTest clone(clone_of(test_boot_spec(*kernel_, "clocks")));
  const auto started = clone.start();
  ASSERT_TRUE(started) << started.error().to_string();
  ASSERT_TRUE(clone.run_until([&] {
    std::size_t lines = 0;
    for (std::size_t at = 0; (at = clone.serial.find("CLOCK ", at)) != std::string::npos; ++at) ++lines;
    return lines >= 20;
  })) << clone.serial;
  EXPECT_EQ(clone.serial.find("BACKWARDS"), std::string::npos) << clone.serial;
  EXPECT_EQ(clone.serial.find("clocksource"), std::string::npos) << clone.serial;
  EXPECT_EQ(clone.serial.find("lockup"), std::string::npos) << clone.serial;
  EXPECT_EQ(clone.serial.find("stall"), std::string::npos) << clone.serial;
  long long mono = 0, worst_mono = 0, worst_real = 0, drift = 0;
  ASSERT_EQ(std::sscanf(clone.serial.c_str() + clone.serial.find("CLOCK "), "CLOCK %lld", &mono), 1);
  EXPECT_GE(mono, saved_at);
  EXPECT_LT(mono - saved_at, kLargestStep);
  ASSERT_EQ(std::sscanf(clone.serial.c_str() + clone.serial.rfind("CLOCK "), "CLOCK %lld %lld %lld %lld",
                        &mono, &worst_mono, &worst_real, &drift),
            4);
  EXPECT_LT(worst_mono, kLargestStep) << clone.serial;
  EXPECT_LT(worst_real, kLargestStep) << clone.serial;
}

// APIC ids over 8 bits: KVM has only the local APICs, the I/O APIC is ours and part of the state.
TEST_F(KvmSnapshotTest, ACloneWithOurIoApic) {
  BootSpec spec = test_boot_spec(*kernel_, "beat");
  spec.topology = {.numa_nodes = 1, .llcs = 5, .cores_per_llc = 5, .threads_per_core = 5};
  spec.command_line += " maxcpus=2";
  const CpuTopology topology = spec.topology;
  {
    MachineUnderTest machine(std::move(spec));
    save_after(machine, "BEAT 5", seconds(240));
    ASSERT_FALSE(HasFailure());
  }
  BootSpec again = clone_of(test_boot_spec(*kernel_, "beat"));
  again.topology = topology;
  MachineUnderTest clone(std::move(again));
  const auto started = clone.start();
  ASSERT_TRUE(started) << started.error().to_string();
  // The console's bytes go by the serial port's interrupt.
  EXPECT_TRUE(clone.run_until_serial("BEAT 30")) << clone.serial;
}

// With numbers for whoever reads the log; the limits are far above what an idle host shows.
TEST_F(KvmSnapshotTest, WhatACloneCosts) {
  {
    MachineUnderTest machine(test_boot_spec(*kernel_, "beat"));
    ASSERT_TRUE(machine.start());
    ASSERT_TRUE(machine.run_until_serial("BEAT 5")) << machine.serial;
    ASSERT_TRUE(machine->pause(seconds(30)));
    const auto begin = std::chrono::steady_clock::now();
    const auto saved = machine->save(files_);
    ASSERT_TRUE(saved) << saved.error().to_string();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    struct stat st {};
    ASSERT_EQ(fstat(files_.ram.get(), &st), 0);
    fmt::print("saved {} MiB of data in {:.1f} ms\n", st.st_blocks / 2048, took.count());
  }
  MachineUnderTest clone(clone_of(test_boot_spec(*kernel_, "beat")));
  ASSERT_TRUE(clone.start());
  ASSERT_TRUE(clone.run_until_serial("BEAT 2")) << clone.serial;
  const auto first_run = clone->statistics().first_run;
  ASSERT_TRUE(first_run);
  const std::chrono::duration<double, std::milli> until = *first_run - clone.started;
  // Pages of guest RAM that are this process's own.
  std::ifstream maps("/proc/self/smaps_rollup");
  long private_kib = 0;
  for (std::string line; std::getline(maps, line);)
    std::sscanf(line.c_str(), "Private_Dirty: %ld kB", &private_kib);
  fmt::print("start to the first KVM_RUN {:.1f} ms; {} MiB private to this process\n", until.count(),
             private_kib / 1024);
  EXPECT_LT(until.count(), 1000);
}

}  // namespace
}  // namespace ktstr::test
