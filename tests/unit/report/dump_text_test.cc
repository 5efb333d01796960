#include "host/report/dump/dump_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string text_of(const ktstr::v1::Dump& dump, bool all) {
  std::string text;
  DumpSink sink(DumpSink::to_string(text));
  write_dump_text(dump, {.all = all}, sink);
  sink.finish();
  return text;
}

TEST(BitmapText, IsWhatTheKernelPrints) {
  EXPECT_EQ(bitmap_text("0-3", 4), "f");
  EXPECT_EQ(bitmap_text("0", 8), "01");
  EXPECT_EQ(bitmap_text("0-7", 12), "0ff");
  EXPECT_EQ(bitmap_text("0-39", 40), "ff,ffffffff");
  EXPECT_EQ(bitmap_text("32", 64), "00000001,00000000");
  EXPECT_EQ(bitmap_text("", 1), "0");
  EXPECT_EQ(bitmap_text("9", 4), "0");
  EXPECT_EQ(bitmap_text("\x1b", 4), "\\x1b");
}

TEST(KernelLines, AreThoseOf7_2) {
  const ktstr::v1::Dump dump = sample_dump();
  const KernelLines lines(dump);
  EXPECT_THAT(lines.cpu(dump.cpus(1)),
              ElementsAre("CPU 1   : nr_run=2 flags=0x1 cpu_rel=0 ksync=41",
                          "          curr=kworker/1:0[30] class=fair_sched_class", "  cpus_to_kick   : 9"));
  EXPECT_THAT(lines.task(dump.tasks(0), false),
              ElementsAre("  R stalled[100] *root -6000ms",
                          "      scx_state/flags=4/0x1 dsq_flags=0x0 ops_state/qseq=2/7",
                          "      sticky/holding_cpu=-1/-1 dsq_id=(n/a)",
                          "      dsq_vtime=99 slice=20000000 weight=100", "      cpus=f no_mig=0"));
}

TEST(KernelLines, AreThoseOf6_12) {
  ktstr::v1::Dump dump = sample_dump();
  dump.mutable_scheds(0)->clear_level();
  dump.mutable_scheds(0)->clear_events();
  dump.clear_enums();
  ktstr::v1::Cpu& cpu = *dump.mutable_cpus(0);
  cpu.clear_kick_sync();
  cpu.set_ops_qseq(5);
  cpu.set_pnt_seq(6);
  ktstr::v1::Task& task = *dump.mutable_tasks(3);
  task.set_flags(1 | 3 << 8);
  task.set_scx_state(3);
  const KernelLines lines(dump);
  EXPECT_EQ(lines.cpu(cpu).front(), "CPU 0   : nr_run=2 flags=0x1 cpu_rel=0 ops_qseq=5 pnt_seq=6");
  EXPECT_THAT(
      lines.task(task, true),
      ElementsAre(" *R runner[200] +0ms", "      scx_state/flags=3/0x1 dsq_flags=0x0 ops_state/qseq=2/7",
                  "      sticky/holding_cpu=-1/-1 dsq_id=(n/a) dsq_vtime=99", "      cpus=f"));
}

TEST(KernelLines, AMadTimeIsShownNotComputedWith) {
  ktstr::v1::Dump dump = sample_dump();
  dump.mutable_tasks(0)->set_runnable_at(~0ull);
  dump.mutable_tasks(1)->set_runnable_at(1ull << 63);
  dump.mutable_header()->set_hz(0);
  const KernelLines lines(dump);
  EXPECT_LT(lines.delta_ms(dump.tasks(0)), 0);
  EXPECT_GT(lines.delta_ms(dump.tasks(1)), 0);
}

TEST(DumpText, FindingsComeFirstAndTheWorstOfThemFirst) {
  const std::string text = text_of(sample_dump(), false);
  EXPECT_LT(text.find("FINDINGS"), text.find("CPU states"));
  EXPECT_LT(text.find("idle-while-waiting"), text.find("waiting: stalled"));
  EXPECT_THAT(text, HasSubstr("kworker/1:0[30] triggered exit kind 1026 on CPU 1:\n  runnable task stall "
                              "(stalled[100] failed to run"));
  EXPECT_THAT(text, HasSubstr("Backtrace:\n  check_rq_for_timeouts+0xdf/0x120\n"));
}

TEST(DumpText, HasIdleCpusTasksAndQueues) {
  const std::string text = text_of(sample_dump(), false);
  EXPECT_THAT(text, HasSubstr("\nCPU 3   : nr_run=0 flags=0x1 cpu_rel=0 ksync=43 idle\n"));
  EXPECT_THAT(text, HasSubstr("\n *R runner[200] *root +0ms\n"));
  EXPECT_THAT(text, HasSubstr("user DSQ 0x7 id=0x7 nr=2 seq=55\n  PROBLEM: nr is 2, but 1 task is linked\n"));
  EXPECT_THAT(text, HasSubstr("\n               SCX_EV_DISPATCH_KEEP_LAST: 18446744073709551615\n"));
  EXPECT_THAT(text, Not(HasSubstr("Kick-wait")));
  v1::Dump waits = sample_dump();
  waits.mutable_cpus(1)->set_cpus_to_wait("1");
  EXPECT_THAT(text_of(waits, false), HasSubstr("CPU 1 waits for cpus_to_wait=1 CPU 1 (ksync 41)\n"));
  EXPECT_THAT(text, HasSubstr("Task.tid: struct sched_ext_entity has no member tid\n"));
  EXPECT_THAT(text, HasSubstr("Sleeping: 1\n  sleeper[300]\n"));
  EXPECT_THAT(text, Not(HasSubstr("scx.new_member")));
  EXPECT_THAT(text_of(sample_dump(), true), HasSubstr("  scx.new_member = 17\n"));
}

// Masks in the scheduler's own data, tasks rescued, stalled CPUs known.
ktstr::v1::Dump dump_of_7_3() {
  ktstr::v1::Dump dump = sample_dump();
  ktstr::v1::Cpu& cpu = *dump.mutable_cpus(1);
  cpu.clear_cpus_to_kick();
  cpu.set_rescue_budget(-4'200'000);
  cpu.mutable_rescue_curr()->set_comm("a b");
  cpu.mutable_rescue_curr()->set_pid(77);
  ktstr::v1::Dsq& rescue = *dump.add_dsqs();
  rescue.set_kind(ktstr::v1::Dsq::RESCUE);
  rescue.set_index(1);
  rescue.set_nr(3);
  ktstr::v1::Sched& sched = *dump.mutable_scheds(0);
  sched.set_stall_cpus("2-3");
  for (std::uint32_t number = 0; number < 4; ++number) sched.add_cpus()->set_cpu(number);
  sched.mutable_cpus(1)->set_cpus_to_kick("0,3");
  sched.mutable_cpus(1)->set_cpus_to_wait("2");
  return dump;
}

TEST(KernelLines, AreThoseOf7_3) {
  const ktstr::v1::Dump dump = dump_of_7_3();
  const KernelLines lines(dump);
  EXPECT_THAT(lines.cpu(dump.cpus(1)), ElementsAre("CPU 1   : nr_run=2 flags=0x1 cpu_rel=0 ksync=41",
                                                   "          rescue=3 budget=-4200us rescuing=a b[77]",
                                                   "          curr=kworker/1:0[30] class=fair_sched_class",
                                                   "  cpus_to_kick   : 9", "  cpus_to_wait   : 4"));
  ktstr::v1::Dump idle = dump;
  idle.mutable_cpus(0)->set_rescue_budget(0);
  EXPECT_EQ(KernelLines(idle).cpu(idle.cpus(0))[1], "          rescue=0 budget=0us rescuing=none[-1]");
}

TEST(DumpText, AllMembersOfCpusAndSchedulers) {
  ktstr::v1::Dump dump = dump_of_7_3();
  dump.mutable_globals()->add_idle_cpus_by_node("1-2");
  dump.mutable_cpus(1)->mutable_vcpu()->set_cr3(0x1234000);
  dump.mutable_cpus(1)->mutable_vcpu()->add_general(0x11);
  dump.mutable_cpus(1)->mutable_vcpu()->add_general(0x22);
  dump.mutable_cpus(1)->add_dispatch_buffer()->set_comm("buffered\x1b");
  dump.mutable_cpus(1)->set_deferred_irq_work(3);
  ktstr::v1::Sched& sched = *dump.mutable_scheds(0);
  sched.set_parent(0x99);
  sched.set_watchdog_timeout(5000);
  auto& novelty = *sched.mutable_exit_info()->add_other();
  novelty.set_name("novelty");
  novelty.set_value("8");
  ktstr::v1::SchedCpu& cpu = *sched.mutable_cpus(1);
  cpu.set_flags(1);
  (*cpu.mutable_events())["SCX_EV_DISPATCH_KEEP_LAST"] = 31;
  auto& other = *cpu.add_other();
  other.set_name("ecaps");
  other.set_value("0x5");
  auto& group = *dump.add_task_groups();
  group.set_address(0xabc);
  group.set_weight(250);
  const std::string text = text_of(dump, true);
  const auto all = text.substr(text.find("All members"));
  for (const char* line :
       {"  idle_cpus_by_node = 1-2\n", "  parent = 0x99\n", "  watchdog_timeout = 5000\n",
        "  exit_info: novelty = 8\n", "qmap (root) on CPU 1\n  flags = 0x1", "  cpus_to_wait = 2\n",
        "  other: ecaps = 0x5\n", "SCX_EV_DISPATCH_KEEP_LAST", "  vcpu.cr3 = 0x1234000\n",
        "  vcpu.general = 0x11 0x22\n", "  deferred_irq_work = 0x3\n", "  nr_switches = 1001\n",
        "  dispatch_buffer[0] = {", "task group 0xabc\n  weight = 250\n"})
    EXPECT_THAT(all, HasSubstr(line));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_THAT(text_of(dump, false), Not(HasSubstr("All members")));
}

TEST(DumpText, StalledCpusComeFirst) {
  const std::string text = text_of(dump_of_7_3(), false);
  const auto at = [&](const char* line) { return text.find(line, text.find("CPU states")); };
  EXPECT_LT(at("\nCPU 2   :"), at("\nCPU 0   :"));
  EXPECT_LT(at("\nCPU 3   :"), at("\nCPU 0   :"));
  // That of the exit comes first only where no CPU is known to have stalled.
  EXPECT_LT(at("\nCPU 0   :"), at("\nCPU 1   :"));
  EXPECT_THAT(text, HasSubstr("CPU 1 waits for cpus_to_wait=2 CPU 1 (ksync 41)\n"));
}

TEST(DumpText, ATaskNameCannotSteerTheTerminal) {
  const std::string text = text_of(sample_dump(), true);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_THAT(text, HasSubstr("bad\\xff\\x1b[31m\xc3\xa9[102]"));
}

TEST(DumpText, AnEmptyDumpIsText) {
  EXPECT_THAT(text_of({}, true), HasSubstr("FINDINGS"));
  // Masks that nobody has read are not empty.
  EXPECT_THAT(text_of({}, true), Not(HasSubstr("idle masks")));
  EXPECT_THAT(text_of(sample_dump(), false), HasSubstr("idle masks: cpu=3 smt=?\n"));
}

}  // namespace
}  // namespace ktstr
