#include "host/report/dump/dump_compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

// What a 7.2 kernel would print for sample_dump(), a little later.
constexpr const char* k7_2 = R"(qmap: root
watchdog[9] triggered exit kind 1026 on CPU 1:
  runnable task stall (stalled[100] failed to run for 6.000s)

Backtrace:
  check_rq_for_timeouts+0xdf/0x120

QMAP FIFO[0]:

CPU states
----------

CPU 1   : nr_run=2 flags=0x1 cpu_rel=0 ksync=44
          curr=kworker/1:0[30] class=fair_sched_class
  cpus_to_kick   : 9

  R stalled[100] *root -6004ms
      scx_state/flags=4/0x1 dsq_flags=0x0 ops_state/qseq=2/7
      sticky/holding_cpu=-1/-1 dsq_id=(n/a)
      dsq_vtime=99 slice=20000000 weight=100
      cpus=f no_mig=0
    QMAP: force_local=0 core_sched_seq=0

    schedule+0x1/0x2

  R on dsq]x[[101] *root -44ms
      scx_state/flags=4/0x1 dsq_flags=0x0 ops_state/qseq=0/0
      sticky/holding_cpu=-1/-1 dsq_id=0x7
      dsq_vtime=99 slice=20000000 weight=100
      cpus=f no_mig=0

CPU 0   : nr_run=2 flags=0x1 cpu_rel=0 ksync=40
          curr=runner[200] class=ext_sched_class

 *R runner[200] *root +0ms
      scx_state/flags=4/0x1 dsq_flags=0x0 ops_state/qseq=2/7
      sticky/holding_cpu=-1/-1 dsq_id=(n/a)
      dsq_vtime=99 slice=20000000 weight=100
      cpus=f no_mig=0

Event counters
--------------
              SCX_EV_SELECT_CPU_FALLBACK:               14
)";

constexpr const char* k6_12 = R"([   12.345678] CPU states
[   12.345679] ----------
[   12.345680]
[   12.345681] CPU 0   : nr_run=2 flags=0x1 cpu_rel=0 ops_qseq=5 pnt_seq=9
[   12.345682]           curr=runner[200] class=ext_sched_class
[   12.345683]
[   12.345684]  *R runner[200] -3ms
[   12.345685]       scx_state/flags=3/0x1 dsq_flags=0x0 ops_state/qseq=2/7
[   12.345686]       sticky/holding_cpu=-1/-1 dsq_id=(n/a) dsq_vtime=99
[   12.345687]       cpus=f

~~~~ TRUNCATED ~~~~
)";

std::vector<std::string> differences(const ktstr::v1::Dump& ours, const std::string& text,
                                     const CompareTolerance& tolerance = {}) {
  const auto kernel = parse_kernel_dump(text);
  EXPECT_TRUE(kernel) << kernel.error().to_string();
  std::vector<std::string> all;
  for (const DumpDifference& difference : compare_with_kernel(ours, *kernel, tolerance))
    all.push_back(difference.to_string());
  return all;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

TEST(DumpCompare, ReadsTheLinesOf7_2) {
  const auto kernel = parse_kernel_dump(k7_2);
  ASSERT_TRUE(kernel);
  ASSERT_EQ(kernel->cpus.size(), 2u);
  EXPECT_EQ(kernel->cpus[0].fields.at("ksync"), "44");
  EXPECT_EQ(kernel->cpus[0].fields.at("cpus_to_kick"), "9");
  ASSERT_EQ(kernel->cpus[0].tasks.size(), 2u);
  EXPECT_EQ(kernel->cpus[0].tasks[1].comm, "on dsq]x[");
  EXPECT_EQ(kernel->cpus[0].tasks[1].fields.at("dsq_id"), "0x7");
  EXPECT_EQ(kernel->cpus[0].tasks[0].owner, "*root");
  EXPECT_TRUE(kernel->cpus[1].tasks[0].current);
  EXPECT_EQ(kernel->events.at("SCX_EV_SELECT_CPU_FALLBACK"), 14u);
  EXPECT_FALSE(kernel->truncated);
}

TEST(DumpCompare, EqualWithinTolerance) {
  EXPECT_THAT(differences(sample_dump(), k7_2), testing::IsEmpty());
}

TEST(DumpCompare, EqualToTheLinesOf6_12FromTheLog) {
  ktstr::v1::Dump ours = sample_dump();
  ours.mutable_scheds(0)->clear_level();
  ours.mutable_scheds(0)->clear_events();
  ours.clear_enums();
  ours.mutable_cpus(0)->set_ops_qseq(5);
  ours.mutable_cpus(0)->set_pnt_seq(6);
  ours.mutable_cpus(0)->clear_kick_sync();
  ours.mutable_tasks(3)->set_flags(0x301);
  ours.mutable_tasks(3)->set_scx_state(3);
  EXPECT_THAT(differences(ours, k6_12), testing::IsEmpty());
  EXPECT_TRUE(parse_kernel_dump(k6_12)->truncated);
}

TEST(DumpCompare, LinesAboutRescueAndThoseNobodyKnows) {
  ktstr::v1::Dump ours = sample_dump();
  ours.mutable_cpus(1)->set_rescue_budget(4'200'000);
  ours.mutable_cpus(1)->mutable_rescue_curr()->set_comm("a b");
  ours.mutable_cpus(1)->mutable_rescue_curr()->set_pid(77);
  const std::string head = "          curr=kworker/1:0[30]";
  const auto with = [&](const std::string& line) { return replaced(k7_2, head, line + "\n" + head); };
  EXPECT_THAT(differences(ours, with("          rescue=0 budget=4200us rescuing=a b[77]")),
              testing::IsEmpty());
  EXPECT_THAT(differences(ours, with("          rescue=2 budget=4100us rescuing=none[-1]")),
              testing::ElementsAre("CPU 1: budget is '4200us', the kernel's dump has '4100us'",
                                   "CPU 1: rescue is '0', the kernel's dump has '2'",
                                   "CPU 1: rescuing is 'a b[77]', the kernel's dump has 'none[-1]'"));
  EXPECT_THAT(
      differences(ours, with("          rescue=0 budget=4100us rescuing=a b[77]"), {.time_ns = 100'000}),
      testing::IsEmpty());
  EXPECT_THAT(differences(sample_dump(), with("          novelty=5")),
              testing::ElementsAre("CPU 1: novelty is 'absent', the kernel's dump has '5'"));
  // What a scheduler prints there is none of our business.
  EXPECT_THAT(differences(sample_dump(), replaced(k7_2, "  cpus_to_kick   : 9\n",
                                                  "  cpus_to_kick   : 9\n          mine=1\n")),
              testing::IsEmpty());
}

TEST(DumpCompare, ATaskThatLeftBeforeTheKernelLooked) {
  const ktstr::v1::Dump ours = sample_dump();
  const std::string text = k7_2;
  const std::size_t task = text.find("  R on dsq]x[");
  const std::string left = replaced(text.substr(0, task) + text.substr(text.find("CPU 0 ", task)),
                                    "CPU 1   : nr_run=2", "CPU 1   : nr_run=1");
  EXPECT_THAT(differences(ours, left, {.tasks_left = 1}), testing::IsEmpty());
  EXPECT_THAT(differences(ours, left),
              testing::ElementsAre("CPU 1: nr_run is '2', the kernel's dump has '1'"));
  // A count that no line explains is wrong.
  EXPECT_THAT(differences(ours, replaced(left, "nr_run=1", "nr_run=0"), {.tasks_left = 2}),
              testing::ElementsAre("CPU 1: nr_run is '2', the kernel's dump has '0'"));
  EXPECT_THAT(
      differences(ours, replaced(text, "CPU 1   : nr_run=2", "CPU 1   : nr_run=1"), {.tasks_left = 2}),
      testing::ElementsAre("CPU 1: nr_run is '2', the kernel's dump has '1'"));
}

TEST(DumpCompare, MasksOfTheScheduler) {
  ktstr::v1::Dump ours = sample_dump();
  ours.mutable_cpus(1)->clear_cpus_to_kick();
  EXPECT_THAT(differences(ours, k7_2),
              testing::ElementsAre("CPU 1: cpus_to_kick is 'absent', the kernel's dump has '9'"));
  auto& cpu = *ours.mutable_scheds(0)->add_cpus();
  cpu.set_cpu(1);
  cpu.set_cpus_to_kick("0,3");
  EXPECT_THAT(differences(ours, k7_2), testing::IsEmpty());
}

TEST(DumpCompare, SaysWhatDiffers) {
  const ktstr::v1::Dump ours = sample_dump();
  EXPECT_THAT(differences(ours, replaced(k7_2, "weight=100", "weight=200")),
              testing::ElementsAre("CPU 1 pid 100: weight is '100', the kernel's dump has '200'"));
  EXPECT_THAT(
      differences(ours, replaced(k7_2, "stalled[100] *root -6004ms", "stalled[100] *root -6400ms")),
      testing::ElementsAre("CPU 1 pid 100: runnable_at is '-6000ms', the kernel's dump has '-6400ms'"));
  EXPECT_THAT(differences(ours, replaced(k7_2, "ksync=44", "ksync=39")),
              testing::ElementsAre("CPU 1: ksync is '41', the kernel's dump has '39'"));
  EXPECT_THAT(differences(ours, replaced(k7_2, "  cpus_to_kick   : 9\n", "")),
              testing::ElementsAre("CPU 1: cpus_to_kick is '9', the kernel's dump has 'absent'"));
  // Whether a run queue's clock is valid changes from one instant to the next; its other flags do not.
  EXPECT_THAT(
      differences(ours, replaced(k7_2, "CPU 0   : nr_run=2 flags=0x1", "CPU 0   : nr_run=2 flags=0x21")),
      testing::IsEmpty());
  EXPECT_THAT(
      differences(ours, replaced(k7_2, "CPU 0   : nr_run=2 flags=0x1", "CPU 0   : nr_run=2 flags=0x3")),
      testing::ElementsAre("CPU 0: flags is '0x1', the kernel's dump has '0x3'"));
  EXPECT_THAT(differences(ours, replaced(k7_2, "flags=4/0x1", "flags=4/0x3")),
              testing::ElementsAre("CPU 1 pid 100: flags is '0x1', the kernel's dump has '0x3'"));
  EXPECT_THAT(differences(ours, replaced(k7_2, "stalled[100] *", "stalled[105] *")),
              testing::ElementsAre("CPU 1 pid 105: task line is 'absent', the kernel's dump has 'there'"));
  EXPECT_THAT(differences(ours, replaced(k7_2, "CPU 0   :", "CPU 9   :")),
              testing::ElementsAre("CPU 9: CPU line is 'absent', the kernel's dump has 'there'"));
}

TEST(DumpCompare, OtherTextIsRefused) {
  EXPECT_EQ(parse_kernel_dump("hello\n").error().code(), ErrorCode::kUsage);
  EXPECT_FALSE(parse_kernel_dump("CPU states\nCPU x: nr_run=1\n"));
  EXPECT_FALSE(parse_kernel_dump("CPU states\nCPU 1   : nr_run=1\n          curr=rubbish\n"));
}

}  // namespace
}  // namespace ktstr
