#include "host/report/dump/dump_text.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/cpu_set.h"
#include "common/kick_masks.h"
#include "common/units.h"
#include "host/report/dump/enum_names.h"
#include "host/report/dump/member_text.h"
#include "host/report/dump/safe_text.h"
#include "host/report/dump/text_parts.h"

namespace ktstr {
namespace {

using namespace ktstr::v1;

constexpr int kUnnamedShown = 8;  // sleeping tasks named beside their count

// One line for one task.
std::string brief(const Task& task) {
  std::string text =
      fmt::format("  {:<24} {:<2} cpu={:<3}", fmt::format("{}[{}]", printable_utf8(task.comm()), task.pid()),
                  printable_utf8(task.state_char()), task.has_cpu() ? fmt::format("{}", task.cpu()) : "?");
  text += waiting_text(task);
  if (!task.dsq_name().empty()) text += " on " + printable_utf8(task.dsq_name());
  if (!task.ops_state_name().empty()) {
    text +=
        fmt::format(" ops_state/qseq={}/{}", printable_utf8(task.ops_state_name()), task.ops_state_qseq());
  }
  if (task.has_slice()) text += fmt::format(" slice={}", task.slice());
  if (task.has_weight()) text += fmt::format(" weight={}", task.weight());
  if (!task.sched_class().empty() && task.sched_class() != "ext_sched_class") {
    text += " class=" + printable_utf8(task.sched_class());
  }
  if (!task.cpus_mask().empty()) text += " cpus=" + printable_utf8(task.cpus_mask());
  return text;
}

void header(const Dump& dump, DumpSink& sink) {
  const DumpHeader& h = dump.header();
  sink.print("sched_ext dump of Linux {} (build id {}), by ktstr-vm {}\n", printable_utf8(h.kernel_release()),
             printable_utf8(h.build_id()), printable_utf8(h.ktstr_vm_version()));
  if (!h.incomplete().empty()) sink.print("  NOT COMPLETE: {}\n", printable_utf8(h.incomplete()));
  sink.print("  reason: {}", printable_utf8(h.reason()));
  if (!h.trap().empty()) {
    sink.print(" at {} ({:#x}) on vCPU {}", printable_utf8(h.trap()), h.trap_address(), h.trap_cpu());
    if (!h.trapped_by().empty()) sink.print(" by {}", printable_utf8(h.trapped_by()));
    if (h.trap_exit_kind() != 0) {
      sink.print(": {} ({})", printable_utf8(h.trap_exit_kind_name()), h.trap_exit_kind());
    }
  }
  sink.put('\n');
  if (!h.taken_at().empty()) {
    sink.print("  taken: {}{}\n", printable_utf8(h.taken_at()),
               h.run_id().empty() ? "" : ", run " + printable_utf8(h.run_id()));
  }
  sink.print("  guest time: jiffies={} clock={}ns HZ={}\n", h.jiffies(), h.clock_ns(), h.hz());
  if (h.frozen_ns() > 0) {
    sink.print("  rendezvous {}, frozen {}, of this copying {}; inspected in {} after the resume\n",
               ms_text(h.rendezvous_ns()), ms_text(h.frozen_ns()), ms_text(h.capture_ns()),
               ms_text(h.inspect_ns()));
  }
  if (!h.clock_held().empty()) sink.print("  guest's clock held: {}\n", printable_utf8(h.clock_held()));
  if (h.vcpus_missing_size() > 0) {
    sink.print("  vCPUs that were not parked in time: {}\n", fmt::join(h.vcpus_missing(), ","));
    for (const std::string& where : h.vcpus_missing_where()) sink.print("    {}\n", where);
  }
  sink.print("  read: {} in {} objects; faults: {}\n", format_size(h.captured_bytes()), h.captured_objects(),
             h.faults());
  if (!h.symbols_from().empty()) sink.print("  symbols: {}\n", printable_utf8(h.symbols_from()));
  if (!h.location().empty()) sink.print("  location: {}\n", printable_utf8(h.location()));
}

void findings(const Dump& dump, DumpSink& sink) {
  put_title(sink, "FINDINGS");
  if (dump.findings_size() == 0) sink.put("none\n");
  std::vector<const DumpFinding*> sorted;
  for (const DumpFinding& finding : dump.findings()) sorted.push_back(&finding);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto* a, const auto* b) { return a->severity() > b->severity(); });
  for (const DumpFinding* finding : sorted) {
    const std::string_view severity = finding->severity() == DumpFinding::ERROR     ? "ERROR"
                                      : finding->severity() == DumpFinding::WARNING ? "WARNING"
                                                                                    : "note";
    sink.print("{:<8} {}: {}\n", severity, printable_utf8(finding->kind()), printable_utf8(finding->text()));
  }
}

// The opening of the kernel's dump: whose it is, and why.
void cause(const Dump& dump, const KernelLines& lines, DumpSink& sink) {
  const Sched* sched = lines.dumped_sched();
  if (sched == nullptr) return;
  sink.print("\n{}: {}{}\n", printable_utf8(sched->name()), printable_utf8(sched->place()),
             sched->cgrp_path().empty() ? "" : " " + printable_utf8(sched->cgrp_path()));
  if (!sched->has_exit_info()) return;
  const ScxExitInfo& info = sched->exit_info();
  std::string who = "?[?]";
  for (const Cpu& cpu : dump.cpus()) {
    if (!dump.header().trap().empty() && cpu.cpu() == dump.header().trap_cpu()) {
      who = fmt::format("{}[{}]", printable_utf8(cpu.curr().comm()), cpu.curr().pid());
    }
  }
  if (info.kind() == 0) {
    if (dump.header().trap_exit_kind() == 0) {
      sink.put("no exit so far\n");
    } else {
      sink.print("{} triggers exit kind {} ({}); the kernel has no message yet\n", who,
                 dump.header().trap_exit_kind(), printable_utf8(dump.header().trap_exit_kind_name()));
      if (!info.msg().empty())
        sink.print("  it will be, read {}:\n  {}\n", printable_utf8(info.read()), printable_utf8(info.msg()));
    }
    return;
  }
  const bool cpu_known = info.has_exit_cpu() && info.exit_cpu() >= 0;
  sink.print("{} triggered exit kind {}{}:\n", who, info.kind(),
             cpu_known ? fmt::format(" on CPU {}", info.exit_cpu()) : "");
  sink.print("  {} ({})\n", printable_utf8(info.reason()), printable_utf8(info.msg()));
  if (!info.kind_name().empty() || info.exit_code() != 0) {
    sink.print("  {} exit_code={:#x}{}\n", printable_utf8(info.kind_name()),
               static_cast<std::uint64_t>(info.exit_code()),
               info.read().empty() ? "" : ", read " + printable_utf8(info.read()));
  }
  sink.put("\nBacktrace:\n");
  put_stack(sink, info.bt(), "  ");
}

// As the kernel does where it knows them: CPUs whose tasks stalled come first, else that of the exit.
std::vector<const Cpu*> kernel_order(const Dump& dump, const KernelLines& lines) {
  std::vector<const Cpu*> order;
  for (const Cpu& cpu : dump.cpus()) order.push_back(&cpu);
  const Sched* sched = lines.dumped_sched();
  if (sched == nullptr) return order;
  CpuSet first;
  if (auto stalled = CpuSet::parse(sched->stall_cpus())) first = std::move(*stalled);
  if (first.empty() && sched->exit_info().has_exit_cpu() && sched->exit_info().exit_cpu() >= 0)
    first.insert(static_cast<std::uint32_t>(sched->exit_info().exit_cpu()));
  std::stable_partition(order.begin(), order.end(),
                        [&](const Cpu* cpu) { return first.contains(cpu->cpu()); });
  return order;
}

void cpus(const Dump& dump, const KernelLines& lines, DumpSink& sink) {
  put_title(sink, "CPU states");
  for (const Cpu* one : kernel_order(dump, lines)) {
    const Cpu& cpu = *one;
    if (KernelLines::skipped(cpu)) {
      sink.print("\n{} idle\n", lines.cpu(cpu).front());
      continue;
    }
    sink.put('\n');
    for (const std::string& line : lines.cpu(cpu)) sink.print("{}\n", line);
    if (!cpu.runnable_list_broken().empty()) {
      sink.print("  runnable_list is broken: {}\n", printable_utf8(cpu.runnable_list_broken()));
    }
    put_cpu_tasks(lines, cpu, sink);
  }
}

void events(const KernelLines& lines, DumpSink& sink) {
  const Sched* sched = lines.dumped_sched();
  if (sched == nullptr || sched->events_size() == 0) return;
  put_title(sink, "Event counters");
  const std::map<std::string, std::uint64_t> sorted(sched->events().begin(), sched->events().end());
  for (const auto& [name, count] : sorted) sink.print("{:>40}: {:>16}\n", printable_utf8(name), count);
}

void vcpus(const Dump& dump, DumpSink& sink) {
  put_title(sink, "vCPUs");
  for (const Cpu& cpu : dump.cpus()) {
    if (!cpu.has_vcpu()) continue;
    put_vcpu(cpu.vcpu(), sink);
    put_stack(sink, cpu.stack(), "      ");
  }
}

void sched_text(const Sched& sched, const EnumNames& names, const DumpTextOptions& options, DumpSink& sink) {
  sink.print("{}: {} at {:#x}\n", printable_utf8(sched.name()), printable_utf8(sched.place()),
             sched.address());
  if (sched.has_ops_flags()) {
    sink.print("  ops.flags={:#x} {}\n", sched.ops_flags(),
               printable_utf8(joined(names.names("scx_ops_flags", sched.ops_flags()))));
  }
  if (sched.callbacks_size() > 0) {
    sink.print("  callbacks: {}\n",
               printable_utf8(joined({sched.callbacks().begin(), sched.callbacks().end()})));
  }
  std::string line;
  const auto add = [&](std::string_view name, bool has, auto value) {
    if (has) line += fmt::format(" {}={}", name, value);
  };
  add("timeout_ms", sched.has_timeout_ms(), sched.timeout_ms());
  add("dispatch_max_batch", sched.has_dispatch_max_batch(), sched.dispatch_max_batch());
  add("exit_dump_len", sched.has_exit_dump_len(), sched.exit_dump_len());
  add("slice_dfl", sched.has_slice_dfl(), sched.slice_dfl());
  add("bypass_depth", sched.has_bypass_depth(), sched.bypass_depth());
  add("aborting", sched.has_aborting(), sched.aborting());
  add("exit_kind", sched.has_exit_kind(), sched.exit_kind());
  if (!line.empty()) sink.print(" {}\n", line);
  if (options.all) put_others(sink, sched.other(), "  other: ");
}

void schedulers(const Dump& dump, const EnumNames& names, const DumpTextOptions& options, DumpSink& sink) {
  put_title(sink, "Schedulers");
  const ScxGlobals& g = dump.globals();
  std::string line;
  if (g.has_scx_enable_state_var()) {
    const auto state = static_cast<std::uint64_t>(std::int64_t{g.scx_enable_state_var()});
    line += fmt::format(" enable_state={} {}", g.scx_enable_state_var(),
                        printable_utf8(joined(names.names("scx_enable_state|scx_ops_enable_state", state))));
  }
  if (g.has_scx_switched_all()) line += fmt::format(" switched_all={}", g.scx_switched_all());
  if (g.has_scx_nr_rejected()) line += fmt::format(" nr_rejected={}", g.scx_nr_rejected());
  if (g.has_scx_bypass_depth()) line += fmt::format(" bypass_depth={}", g.scx_bypass_depth());
  if (g.has_scx_watchdog_timeout())
    line += fmt::format(" watchdog_timeout={} jiffies", g.scx_watchdog_timeout());
  if (g.has_watchdog_ran_ms_ago())
    line += fmt::format("; the watchdog ran {} ms ago", g.watchdog_ran_ms_ago());
  if (!line.empty()) sink.print("sched_ext:{}\n", line);
  // The second says nothing where a core has one thread: nobody clears its bits then.
  const auto mask = [](bool has, const std::string& cpus) {
    return !has ? std::string("?") : cpus.empty() ? std::string("none") : printable_utf8(cpus);
  };
  if (g.has_idle_cpus() || g.has_idle_smt()) {
    sink.print("idle masks: cpu={} smt={}\n", mask(g.has_idle_cpus(), g.idle_cpus()),
               mask(g.has_idle_smt(), g.idle_smt()));
  }
  for (const Sched& sched : dump.scheds()) sched_text(sched, names, options, sink);
}

void dsqs(const Dump& dump, const DumpTextOptions& options, DumpSink& sink) {
  put_title(sink, "Dispatch queues");
  std::size_t empty = 0;
  for (const Dsq& dsq : dump.dsqs()) {
    const bool interesting = dsq.nr() > 0 || dsq.tasks_size() > 0 || dsq.problems_size() > 0;
    if (interesting || options.all || dsq.kind() == Dsq::USER) {
      write_dsq_text(dsq, sink);
      if (options.all) put_others(sink, dsq.other(), "  other: ");
    } else {
      ++empty;
    }
  }
  if (empty > 0) sink.print("and {} built-in DSQs without a task\n", empty);
}

struct Group {
  Task::Where where;
  std::string_view text;
};
constexpr std::array<Group, 8> kGroups = {{{Task::RUNNING, "Running"},
                                           {Task::ON_DSQ, "On a DSQ"},
                                           {Task::OWNED_BY_BPF, "Owned by the BPF scheduler, on no DSQ"},
                                           {Task::IN_TRANSIT, "In transit"},
                                           {Task::RUNNABLE_OTHER_CLASS, "Runnable, in another class"},
                                           {Task::UNKNOWN, "Unknown"},
                                           {Task::EXITING, "Exiting"},
                                           {Task::SLEEPING, "Sleeping"}}};

void task_groups(const Dump& dump, const DumpTextOptions& options, DumpSink& sink) {
  put_title(sink, "Tasks");
  for (const Group& group : kGroups) {
    std::vector<const Task*> tasks;
    for (const Task& task : dump.tasks()) {
      if (task.where() == group.where) tasks.push_back(&task);
    }
    if (tasks.empty()) continue;
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task* a, const Task* b) {
      constexpr std::int64_t kNotWaiting = std::numeric_limits<std::int64_t>::min();
      return (a->has_waiting_ms() ? a->waiting_ms() : kNotWaiting) >
             (b->has_waiting_ms() ? b->waiting_ms() : kNotWaiting);
    });
    sink.print("{}: {}\n", group.text, tasks.size());
    const bool brief_only = group.where == Task::SLEEPING && !options.all;
    if (brief_only) {
      sink.put(" ");
      for (std::size_t i = 0; i < std::min<std::size_t>(tasks.size(), kUnnamedShown); ++i) {
        sink.print(" {}[{}]", printable_utf8(tasks[i]->comm()), tasks[i]->pid());
      }
      sink.put(tasks.size() > kUnnamedShown ? " ...\n" : "\n");
      continue;
    }
    for (const Task* task : tasks) sink.print("{}\n", brief(*task));
  }
}

void kick_waits(const Dump& dump, DumpSink& sink) {
  bool first = true;
  const auto line = [&](const Cpu& cpu, const std::string& mask, const std::string& whose) {
    // Numbers of waits that are over stay in kick_syncs.
    if (mask.empty()) return;
    std::string who;
    for (int i = 0; i < cpu.kick_syncs_size(); ++i) {
      if (cpu.kick_syncs(i) != 0) who += fmt::format(" CPU {} (ksync {})", i, cpu.kick_syncs(i));
    }
    if (first) put_title(sink, "Kick-wait");
    first = false;
    sink.print("CPU {} waits for cpus_to_wait={}{}{}\n", cpu.cpu(), printable_utf8(mask), whose, who);
  };
  for (const Cpu& cpu : dump.cpus()) {
    if (cpu.has_cpus_to_wait()) {
      line(cpu, cpu.cpus_to_wait(), "");
      continue;
    }
    for (const Sched& sched : dump.scheds()) {
      line(cpu, kick_mask(cpu, &sched, KickMask::kWait),
           dump.scheds_size() > 1 ? " of " + printable_utf8(sched.name()) : "");
    }
  }
}

void other_members(const Dump& dump, DumpSink& sink) {
  bool first = true;
  const auto block = [&](const std::string& name, const auto& list) {
    if (list.empty()) return;
    if (first) put_title(sink, "Other members");
    first = false;
    sink.print("{}\n", name);
    put_others(sink, list, "  ");
  };
  for (const Cpu& cpu : dump.cpus()) block(fmt::format("CPU {}", cpu.cpu()), cpu.other());
  for (const Task& task : dump.tasks()) {
    block(fmt::format("{}[{}]", printable_utf8(task.comm()), task.pid()), task.other());
  }
}

// Whatever the sections above leave out of the objects that are not many.
void all_members(const Dump& dump, const EnumNames& names, DumpSink& sink) {
  put_title(sink, "All members");
  sink.put("sched_ext\n");
  put_members(sink, dump.globals(), names, "  ", {});
  for (const Sched& sched : dump.scheds()) {
    const std::string who =
        fmt::format("{} ({})", printable_utf8(sched.name()), printable_utf8(sched.place()));
    sink.print("{}\n", who);
    put_members(sink, sched, names, "  ", {"cpus", "events", "callbacks", "other", "bt", "dump"});
    put_others(sink, sched.exit_info().other(), "  exit_info: ");
    for (const SchedCpu& cpu : sched.cpus()) {
      sink.print("{} on CPU {}\n", who, cpu.cpu());
      put_members(sink, cpu, names, "  ", {"cpu"});
    }
  }
  for (const Cpu& cpu : dump.cpus()) {
    sink.print("CPU {}\n", cpu.cpu());
    put_members(sink, cpu, names, "  ", {"cpu", "stack", "other"});
  }
  for (const TaskGroup& group : dump.task_groups()) {
    sink.print("task group {:#x}\n", group.address());
    put_members(sink, group, names, "  ", {"address"});
  }
}

void absences_and_faults(const Dump& dump, DumpSink& sink) {
  if (dump.absent_size() > 0) put_title(sink, "Absent");
  for (const Absence& absence : dump.absent()) {
    sink.print("{}: {}\n", printable_utf8(absence.what()), printable_utf8(absence.reason()));
  }
  if (dump.faults_size() > 0) put_title(sink, "Faults");
  for (const DumpFault& fault : dump.faults()) {
    sink.print("{}: {}\n", printable_utf8(fault.path()), printable_utf8(fault.text()));
  }
}

}  // namespace

void write_dump_text(const Dump& dump, const DumpTextOptions& options, DumpSink& sink) {
  const KernelLines lines(dump);
  const EnumNames names(dump);
  header(dump, sink);
  findings(dump, sink);
  cause(dump, lines, sink);
  cpus(dump, lines, sink);
  events(lines, sink);
  schedulers(dump, names, options, sink);
  vcpus(dump, sink);
  dsqs(dump, options, sink);
  task_groups(dump, options, sink);
  kick_waits(dump, sink);
  if (options.all) other_members(dump, sink);
  if (options.all) all_members(dump, names, sink);
  absences_and_faults(dump, sink);
}

}  // namespace ktstr
