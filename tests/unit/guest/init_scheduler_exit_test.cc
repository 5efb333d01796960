#include <gtest/gtest.h>

#include "guest/init/scheduler_exit.h"

namespace ktstr::guest {
namespace {

// Wait statuses as the kernel encodes them.
constexpr int exited(int code) {
  return code << 8;
}
constexpr int killed(int signal) {
  return signal;
}

const std::vector<std::string> kStall = {"BPF scheduler \"simple\" enabled",
                                         "BPF scheduler \"simple\" disabled (runnable task stall)",
                                         "simple: watchdog failed to check in for 30.001s"};
const std::vector<std::string> kUnregistered = {
    "BPF scheduler \"simple\" disabled (unregistered from user space)"};

TEST(WaitStatus, IsDescribedAndCoded) {
  EXPECT_EQ(describe_wait_status(exited(3)), "exited with status 3");
  EXPECT_EQ(describe_wait_status(killed(9)), "was killed by signal 9 (Killed)");
  EXPECT_EQ(exit_code_of(exited(3)), 3);
  EXPECT_EQ(exit_code_of(killed(11)), 139);
}

TEST(ExitMessage, PrefersTheSchedulersOwnWords) {
  const ExitEvidence evidence{
      .wait_status = exited(1),
      .output = {"local=1", "04:00:01 [WARN] EXIT: scx_bpf_error (x.bpf.c:119: bad)", "bye"},
      .kernel = kStall};
  EXPECT_EQ(exit_message(evidence), "EXIT: scx_bpf_error (x.bpf.c:119: bad)");
}

TEST(ExitMessage, ThenTheKernelsError) {
  EXPECT_EQ(
      exit_message({.wait_status = exited(1), .output = {"local=1"}, .kernel = kStall}),
      "BPF scheduler \"simple\" disabled (runnable task stall): watchdog failed to check in for 30.001s");
}

TEST(ExitMessage, ThenTheEndOfTheProcess) {
  EXPECT_EQ(exit_message({.wait_status = killed(9), .output = {"local=1"}, .kernel = kUnregistered}),
            "the scheduler's process was killed by signal 9 (Killed)");
  EXPECT_EQ(exit_message({.wait_status = exited(1), .output = {"no more"}, .kernel = {}}),
            "the scheduler's process exited with status 1: no more");
}

TEST(ExitMessage, LastOfAllTheKernelsFarewell) {
  EXPECT_EQ(exit_message({.wait_status = {}, .output = {}, .kernel = kUnregistered}), kUnregistered[0]);
  EXPECT_NE(exit_message({}).find("neither it nor the kernel says why"), std::string::npos);
}

TEST(ExitMessage, IsBounded) {
  EXPECT_LE(
      exit_message({.wait_status = {}, .output = {"EXIT: " + std::string(100000, 'x')}, .kernel = {}}).size(),
      1000U);
}

TEST(KernelError, TellsErrorsFromFarewells) {
  EXPECT_FALSE(kernel_error(kStall).empty());
  EXPECT_TRUE(kernel_error(kUnregistered).empty());
  EXPECT_TRUE(kernel_error({"BPF scheduler \"simple\" enabled"}).empty());
  EXPECT_FALSE(kernel_error({"BPF scheduler \"simple\" disabled (disabled by sysrq-S)"}).empty());
}

TEST(StartFailure, PicksTheLineThatNamesTheCause) {
  EXPECT_EQ(
      start_failure_message(exited(1),
                            {"libbpf: prog 'x': BPF program load FAILED: Permission denied", "bye"}),
      "the scheduler exited with status 1 before it was attached: libbpf: prog 'x': BPF program load FAILED: "
      "Permission denied");
  EXPECT_EQ(start_failure_message(exited(0), {"first", "last"}),
            "the scheduler exited with status 0 before it was attached: last");
  EXPECT_EQ(start_failure_message(killed(6), {}),
            "the scheduler was killed by signal 6 (Aborted) before it was attached, without a word");
}

TEST(SchedExtMessage, ReadsKmsgRecords) {
  EXPECT_EQ(sched_ext_message("3,812,5140900,-;sched_ext: BPF scheduler \"x\" disabled (y)\n SUBSYSTEM=z\n"),
            "BPF scheduler \"x\" disabled (y)");
  EXPECT_FALSE(sched_ext_message("6,1,2,-;usb: sched_ext: no"));
  EXPECT_FALSE(sched_ext_message("sched_ext: no header"));
  EXPECT_FALSE(sched_ext_message(""));
}

}  // namespace
}  // namespace ktstr::guest
