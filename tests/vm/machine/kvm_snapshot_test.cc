// What only the kvm machine's snapshots have: the clocks of a clone, the split interrupt chip, what a clone
// costs. What both machines have is in snapshot_test.cc.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

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

using Clock = std::chrono::steady_clock;

// One line of the program that reads both clocks without a pause; ns.
struct ClockLine {
  long long mono = 0, worst_mono = 0, worst_real = 0;
};
// Whole lines only: the console of a clone begins in the middle of one.
std::vector<ClockLine> clock_lines(const std::string& serial) {
  std::vector<ClockLine> lines;
  for (std::size_t begin = 0, end = 0; (end = serial.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    ClockLine line;
    std::istringstream words(serial.substr(begin, end - begin));
    std::string clock;
    long long drift = 0;
    if (words >> clock >> line.mono >> line.worst_mono >> line.worst_real >> drift && clock == "CLOCK")
      lines.push_back(line);
  }
  return lines;
}

// A program that reads both clocks without a pause sees no more go by than the guest has run, and neither
// clock goes back. How long the guest has run is bounded from outside: until it was paused, and from the
// clone's start on. (On a busy host that may be seconds, in which the guest did not do much.)
TEST_F(KvmSnapshotTest, ProgramsOfACloneSeeNoGap) {
  constexpr auto kInTheCache = seconds(4);
  // A line comes some time after its clock was read, here and there.
  constexpr long long kOnTheWay = 1'000'000'000;
  ClockLine saved;
  std::chrono::nanoseconds ran{};
  {
    MachineUnderTest machine(test_boot_spec(*kernel_, "clocks"));
    std::size_t seen = 0;
    Clock::time_point last_line;
    machine.on_console = [&] {
      if (const std::size_t now = clock_lines(machine.serial).size(); now != std::exchange(seen, now))
        last_line = Clock::now();
    };
    ASSERT_TRUE(machine.start());
    ASSERT_TRUE(machine.run_until([&] { return seen >= 3; })) << machine.serial;
    const auto paused = machine->pause(seconds(30));
    ASSERT_TRUE(paused && paused->missing.empty());
    ran = Clock::now() - last_line;
    const auto done = machine->save(files_);
    ASSERT_TRUE(done) << done.error().to_string();
    saved = clock_lines(machine.serial).back();
  }
  std::this_thread::sleep_for(kInTheCache);  // this is what is tested
  MachineUnderTest clone(clone_of(test_boot_spec(*kernel_, "clocks")));
  const auto begin = Clock::now();
  const auto started = clone.start();
  ASSERT_TRUE(started) << started.error().to_string();
  ASSERT_TRUE(clone.run_until([&] { return !clock_lines(clone.serial).empty(); })) << clone.serial;
  ran += Clock::now() - begin;
  const ClockLine first = clock_lines(clone.serial).front();
  EXPECT_GE(first.mono, saved.mono) << clone.serial;
  EXPECT_LE(first.mono - saved.mono, ran.count() + kOnTheWay) << clone.serial;
  EXPECT_LE(first.worst_mono, std::max<long long>(saved.worst_mono, ran.count() + kOnTheWay)) << clone.serial;
  EXPECT_LE(first.worst_real, std::max<long long>(saved.worst_real, ran.count() + kOnTheWay)) << clone.serial;
  fmt::print("the clock went on by {} ms, of at most {} ms\n", (first.mono - saved.mono) / 1'000'000,
             ran.count() / 1'000'000);
  ASSERT_TRUE(clone.run_until([&] { return clock_lines(clone.serial).size() >= 20; })) << clone.serial;
  EXPECT_EQ(clone.serial.find("BACKWARDS"), std::string::npos) << clone.serial;
  EXPECT_EQ(clone.serial.find("lockup"), std::string::npos) << clone.serial;
  EXPECT_EQ(clone.serial.find("stall"), std::string::npos) << clone.serial;
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
  for (std::string word; maps >> word;)
    if (word == "Private_Dirty:") maps >> private_kib;
  fmt::print("start to the first KVM_RUN {:.1f} ms; {} MiB private to this process\n", until.count(),
             private_kib / 1024);
  EXPECT_LT(until.count(), 1000);
}

}  // namespace
}  // namespace ktstr::test
