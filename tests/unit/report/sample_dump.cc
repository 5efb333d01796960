#include "tests/unit/report/sample_dump.h"

#include <fmt/format.h>

namespace ktstr {
namespace {

using namespace ktstr::v1;

constexpr std::uint64_t kJiffies = 4294967296 + 12345;
constexpr std::uint32_t kHz = 250;

void add_enum(Dump& dump, const char* names,
              std::initializer_list<std::pair<const char*, std::uint64_t>> constants) {
  EnumTable& table = *dump.add_enums();
  table.set_enum_names(names);
  for (const auto& [name, value] : constants) {
    auto& constant = *table.add_constants();
    constant.set_name(name);
    constant.set_value(value);
  }
}

Task& add_task(Dump& dump, std::int32_t pid, const std::string& comm, Task::Where where,
               std::int64_t waiting) {
  Task& t = *dump.add_tasks();
  t.set_address(0xffff888000000000 + static_cast<std::uint64_t>(pid) * 0x1000);
  t.set_pid(pid);
  t.set_tgid(pid);
  t.set_comm(comm);
  t.set_where(where);
  t.set_state_char(where == Task::SLEEPING ? "S" : "R");
  t.set___state(where == Task::SLEEPING ? 1 : 0);
  t.set_on_rq(where == Task::SLEEPING ? 0 : 1);
  t.set_on_cpu(where == Task::RUNNING ? 1 : 0);
  t.set_cpu(1);
  t.set_policy(7);
  t.set_prio(120);
  t.set_static_prio(120);
  t.set_sched_class("ext_sched_class");
  t.set_cpus_mask("0-3");
  t.set_nr_cpus_allowed(4);
  t.set_migration_disabled(0);
  t.set_sum_exec_runtime(123456789);
  t.set_nvcsw(10);
  t.set_nivcsw(20);
  t.set_sched(0xffff888000aa0000);
  t.set_dsq(0);
  t.set_ops_state(2 | 7 << 2);
  t.set_ops_state_name("QUEUED");
  t.set_ops_state_qseq(7);
  t.set_dsq_flags(0);
  t.set_flags(1 | 4 << 8);
  t.set_scx_state(4);
  t.set_scx_state_name("ENABLED");
  t.set_weight(100);
  t.set_sticky_cpu(-1);
  t.set_holding_cpu(-1);
  t.set_slice(20000000);
  t.set_dsq_vtime(99);
  t.set_runnable_at(kJiffies - static_cast<std::uint64_t>(waiting) * kHz / 1000);
  if (where == Task::ON_DSQ || where == Task::OWNED_BY_BPF) t.set_waiting_ms(waiting);
  t.add_found_on("scx_tasks");
  t.add_found_on("task tree");
  Other& other = *t.add_other();
  other.set_name("scx.new_member");
  other.set_value("17");
  return t;
}

Cpu& add_cpu(Dump& dump, std::uint32_t number, std::int32_t pid, const std::string& comm,
             const char* sched_class) {
  Cpu& c = *dump.add_cpus();
  c.set_cpu(number);
  c.set_address(0xffff88803ec00000 + number * 0x100000ull);
  c.mutable_curr()->set_pid(pid);
  c.mutable_curr()->set_comm(comm);
  c.set_curr_class(sched_class);
  c.set_rq_nr_running(pid == 0 ? 0 : 2);
  c.set_nr_switches(1000 + number);
  c.set_nr_running(pid == 0 ? 0 : 2);
  c.set_flags(1);
  c.set_cpu_released(false);
  c.set_kick_sync(40 + number);
  c.set_cpus_to_kick("");
  c.set_idle(pid == 0);
  Vcpu& v = *c.mutable_vcpu();
  v.set_cpu(number);
  v.set_rip(0xffffffff81234567);
  v.set_symbol(pid == 0 ? "pv_native_safe_halt+0xb" : "scx_vexit+0x0");
  v.set_halted(pid == 0);
  v.set_stopped_after_ns(1500000);
  return c;
}

}  // namespace

Dump sample_dump(std::uint32_t tasks) {
  Dump dump;
  DumpHeader& h = *dump.mutable_header();
  h.set_schema_version(1);
  h.set_ktstr_vm_version("0.1.0");
  h.set_kernel_release("7.2.13");
  h.set_build_id("4f00aa");
  h.set_reason("trap");
  h.set_trap("scx_vexit+0x0");
  h.set_trap_address(0xffffffff81234567);
  h.set_trap_cpu(1);
  h.set_trapped_by("port trap");
  h.set_clock_held("kvmclock and the TSC, by its offset");
  h.set_trap_exit_kind(1026);
  h.set_trap_exit_kind_name("SCX_EXIT_ERROR_STALL");
  h.set_trap_sched(0xffff888000aa0000);
  h.set_jiffies(kJiffies);
  h.set_hz(kHz);
  h.set_nr_cpu_ids(4);
  h.set_faults(1);
  DumpFinding& finding = *dump.add_findings();
  finding.set_severity(DumpFinding::WARNING);
  finding.set_kind("waiting");
  finding.set_text("stalled[100] has waited 6000ms");
  DumpFinding& worse = *dump.add_findings();
  worse.set_severity(DumpFinding::ERROR);
  worse.set_kind("idle-while-waiting");
  worse.set_text("CPU 3 is idle while stalled[100] may run there");
  ScxGlobals& g = *dump.mutable_globals();
  g.set_scx_enable_state_var(1);
  g.set_scx_nr_rejected(0);
  g.set_scx_root(0xffff888000aa0000);
  g.set_idle_cpus("3");
  Sched& s = *dump.add_scheds();
  s.set_address(0xffff888000aa0000);
  s.set_name("qmap");
  s.set_place("root");
  s.set_level(0);
  s.set_ops_flags(0x12);
  s.add_callbacks("enqueue");
  s.add_callbacks("dispatch");
  (*s.mutable_events())["SCX_EV_SELECT_CPU_FALLBACK"] = 12;
  (*s.mutable_events())["SCX_EV_DISPATCH_KEEP_LAST"] = 18446744073709551615u;
  ScxExitInfo& e = *s.mutable_exit_info();
  e.set_kind(1026);
  e.set_kind_name("SCX_EXIT_ERROR_STALL");
  e.set_exit_cpu(1);
  e.set_reason("runnable task stall");
  e.set_msg("stalled[100] failed to run for 6.000s");
  StackEntry& frame = *e.add_bt();
  frame.set_address(0xffffffff81234567);
  frame.set_symbol("check_rq_for_timeouts+0xdf/0x120");

  add_cpu(dump, 0, 200, "runner", "ext_sched_class")
      .mutable_curr()
      ->set_address(0xffff888000000000 + 200 * 0x1000);
  Cpu& one = add_cpu(dump, 1, 30, "kworker/1:0", "fair_sched_class");
  one.add_runnable_list(100);
  one.add_runnable_list(101);
  one.set_cpus_to_kick("0,3");
  one.add_kick_syncs(0);
  one.add_kick_syncs(41);
  add_cpu(dump, 2, 0, "swapper/2", "idle_sched_class").add_runnable_list(102);
  add_cpu(dump, 3, 0, "swapper/3", "idle_sched_class");

  add_task(dump, 100, "stalled", Task::OWNED_BY_BPF, 6000);
  Task& queued = add_task(dump, 101, "on dsq]x[", Task::ON_DSQ, 40);
  queued.set_dsq(0xffff888000dd0000);
  queued.set_dsq_id(7);
  queued.set_dsq_name("user DSQ 0x7");
  queued.set_ops_state(0);
  queued.set_ops_state_name("NONE");
  queued.set_ops_state_qseq(0);
  add_task(dump, 102, "bad\xff\x1b[31m\xc3\xa9", Task::IN_TRANSIT, 4);
  add_task(dump, 200, "runner", Task::RUNNING, 0);
  add_task(dump, 300, "sleeper", Task::SLEEPING, 0);
  for (std::uint32_t i = 0; i < tasks; ++i) {
    add_task(dump, static_cast<std::int32_t>(1000 + i), fmt::format("load-{}", i),
             i % 2 == 0 ? Task::SLEEPING : Task::ON_DSQ, i % 500);
  }

  Dsq& dsq = *dump.add_dsqs();
  dsq.set_kind(Dsq::USER);
  dsq.set_address(0xffff888000dd0000);
  dsq.set_id(7);
  dsq.set_name("user DSQ 0x7");
  dsq.set_nr(2);
  dsq.set_seq(55);
  DsqEntry& entry = *dsq.add_tasks();
  entry.set_pid(101);
  entry.set_comm("on dsq]x[");
  entry.set_waiting_ms(40);
  dsq.add_problems("nr is 2, but 1 task is linked");
  Dsq& local = *dump.add_dsqs();
  local.set_kind(Dsq::LOCAL);
  local.set_id(0x8000000000000002);
  local.set_name("local DSQ of CPU 3");
  local.set_index(3);
  local.set_nr(0);
  DumpFault& fault = *dump.add_faults();
  fault.set_path("scx_root->dsq_hash.tbl->buckets[3]");
  fault.set_text("8 bytes at 0x0: not mapped");
  Absence& absence = *dump.add_absent();
  absence.set_what("Task.tid");
  absence.set_reason("struct sched_ext_entity has no member tid");
  add_enum(dump, "scx_ops_flags",
           {{"SCX_OPS_KEEP_BUILTIN_IDLE", 1},
            {"SCX_OPS_ENQ_LAST", 2},
            {"SCX_OPS_ENQ_EXITING", 4},
            {"SCX_OPS_ENQ_MIGRATION_DISABLED", 16},
            {"SCX_OPS_ALL_FLAGS", 23},
            {"__SCX_OPS_INTERNAL_MASK", 0xff00000000000000},
            {"SCX_OPS_HAS_CPU_PREEMPT", 1ull << 56}});
  add_enum(dump, "scx_ent_flags",
           {{"SCX_TASK_QUEUED", 1},
            {"SCX_TASK_IN_CUSTODY", 2},
            {"SCX_TASK_RESET_RUNNABLE_AT", 4},
            {"SCX_TASK_DEQD_FOR_SLEEP", 8},
            {"SCX_TASK_STATE_SHIFT", 8},
            {"SCX_TASK_STATE_BITS", 3},
            {"SCX_TASK_STATE_MASK", 0x700},
            {"SCX_TASK_NONE", 0},
            {"SCX_TASK_INIT", 0x200},
            {"SCX_TASK_READY", 0x300},
            {"SCX_TASK_ENABLED", 0x400},
            {"SCX_TASK_CURSOR", 0xffffffff80000000}});
  add_enum(dump, "scx_enable_state|scx_ops_enable_state",
           {{"SCX_ENABLING", 0}, {"SCX_ENABLED", 1}, {"SCX_DISABLING", 2}, {"SCX_DISABLED", 3}});
  return dump;
}

}  // namespace ktstr
