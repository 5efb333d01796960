#include "host/explore/signature.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

ktstr::v1::RunResult died(const std::string& text) {
  ktstr::v1::RunResult result;
  result.set_verdict(ktstr::v1::SCHEDULER_DIED);
  auto* reason = result.add_reasons();
  reason->set_kind("scheduler-exit");
  reason->set_text(text);
  return result;
}

constexpr const char* kOops =
    "[    1.0] [    T1] BUG: unable to handle page fault for address: ffffffff00000000\n"
    "[    1.0] [    T1] RIP: 0010:pick_task_scx+0x1f/0x2a0\n"
    "[    1.0] [    T1] Code: 00 11\n"
    "[    1.0] [    T1] Call Trace:\n"
    "[    1.0] [    T1]  <TASK>\n"
    "[    1.0] [    T1]  ? __die+0x1/0x2\n"
    "[    1.0] [    T1]  dump_stack_lvl+0x1/0x2\n"
    "[    1.0] [    T1]  __pick_next_task.isra.0+0x10/0x20\n"
    "[    1.0] [    T1]  __schedule+0x10/0x20 [module]\n"
    "[    1.0] [    T1]  schedule+0x10/0x20\n"
    "[    1.0] [    T1]  </TASK>\n";

TEST(Generalise, AddressesNumbersAndIds) {
  EXPECT_EQ(generalise("task 0xffff888001234567 at ffffffff81234567"), "task <addr> at <addr>");
  EXPECT_EQ(generalise("build 0123456789abcdef0123456789abcdef01234567"), "build <id>");
  EXPECT_EQ(generalise("worker-12[431] on CPU3"), "worker-N[N] on CPUN");
  EXPECT_EQ(generalise("stalled for 5.001s, limit 250 ms"), "stalled for N, limit N");
  EXPECT_EQ(generalise("CPUs 0-3,8 of 4, 5, 6"), "CPUs N of N");
}

TEST(Generalise, FoldersOfRuns) {
  EXPECT_EQ(generalise("see /tmp/x/20261121T034500Z-1a2b3c/console.log"), "see <run>/console.log");
  EXPECT_EQ(generalise("see out/20261121T034500Z-1a2b3c-explore/runs/7/20261121T034501Z-aabbcc"),
            "see <run>");
  EXPECT_EQ(generalise("see /usr/lib/x"), "see /usr/lib/x");
}

TEST(Generalise, WordsStay) {
  EXPECT_EQ(generalise("dead beef faced a decade"), "dead beef faced a decade");
  EXPECT_EQ(generalise("two lines\nsecond"), "two lines");
  EXPECT_EQ(generalise(""), "");
}

TEST(Generalise, HostileInputIsBounded) {
  EXPECT_LE(generalise(std::string(1 << 20, 'x')).size(), Signature::kMaxText);
  EXPECT_LE(generalise(std::string(1 << 20, '/')).size(), Signature::kMaxText);
  std::string bytes;
  for (int i = 1; i < 256; ++i) bytes += static_cast<char>(i == '\n' ? ' ' : i);
  for (const char c : generalise(bytes)) EXPECT_TRUE(c >= ' ' || c == '\t') << static_cast<int>(c);
}

TEST(CallTrace, TakesTheTopFramesOfTheFirst) {
  const std::vector<std::string> expected = {"pick_task_scx", "__pick_next_task", "__schedule"};
  EXPECT_EQ(call_trace(std::string("boot\n") + kOops + "Call Trace:\n other+0x1/0x2\n"), expected);
}

TEST(CallTrace, NoneAndCutOff) {
  EXPECT_TRUE(call_trace("").empty());
  EXPECT_TRUE(call_trace("no trace here\n").empty());
  EXPECT_TRUE(call_trace("Call Trace:").empty());
  EXPECT_TRUE(call_trace("Call Trace:\n" + std::string(1 << 20, 'a')).empty());
  EXPECT_EQ(call_trace("Call Trace:\n f+0x1/0x2").size(), 1U);
  std::string guesses = "Call Trace:\n";
  for (int i = 0; i < 10000; ++i) guesses += " ? g+0x1/0x2\n";
  EXPECT_TRUE(call_trace(guesses + " f+0x1/0x2\n").empty());
}

TEST(ExitBacktrace, OfTheSchedulersLog) {
  const std::vector<std::string> expected = {"check_rq_for_timeouts", "scx_watchdog_workfn"};
  EXPECT_EQ(
      exit_backtrace("kworker/u8:1[12] triggered exit kind 1026:\n  runnable task stall\n\nBacktrace:\n"
                     "  check_rq_for_timeouts+0xdf/0x120\n  scx_watchdog_workfn+0x64/0x90\n\nCPU states\n"),
      expected);
}

TEST(MakeSignature, EqualForOneBugUnderTwoSeeds) {
  const auto a = make_signature(died("worker-1[400] failed to run for 5.001s"), "", "");
  const auto b = make_signature(died("worker-3[417] failed to run for 7.2s"), "", "");
  EXPECT_EQ(a, b);
  EXPECT_EQ(a.hash(), b.hash());
  EXPECT_EQ(a.line(), "scheduler-died scheduler-exit: worker-N[N] failed to run for N");
  EXPECT_NE(a.hash(), make_signature(died("invalid DSQ"), "", "").hash());
}

TEST(MakeSignature, TheHashIsStable) {
  EXPECT_EQ(signature_hash("123456789"), "e3069283");
}

TEST(MakeSignature, ASchedulersExitGoesByItsOwnBacktrace) {
  const std::string log = "Backtrace:\n  scx_exit+0x1/0x2\n";
  EXPECT_EQ(make_signature(died("x"), kOops, log).frames, std::vector<std::string>{"scx_exit"});
  ktstr::v1::RunResult panic;
  panic.set_verdict(ktstr::v1::KERNEL_PANIC);
  const Signature signature = make_signature(panic, kOops, log);
  EXPECT_EQ(signature.line(), "kernel-panic [pick_task_scx < __pick_next_task < __schedule]");
}

TEST(MakeSignature, HostileKindsAndVerdicts) {
  ktstr::v1::RunResult result;
  result.set_verdict(static_cast<ktstr::v1::Verdict>(99));
  result.add_reasons()->set_kind(std::string(100000, '\x1b') + "k");
  const Signature signature = make_signature(result, "", "");
  EXPECT_EQ(signature.verdict, "unknown");
  EXPECT_LE(signature.kind.size(), Signature::kMaxKind);
  EXPECT_EQ(signature.line().find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace ktstr
