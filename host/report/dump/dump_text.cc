#include "host/report/dump/dump_text.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/units.h"
#include "host/report/dump/enum_names.h"
#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

using namespace ktstr::v1;

constexpr double kNsPerMs = 1e6;
constexpr int kUnnamedShown = 8;  // sleeping tasks named beside their count

void title(DumpSink& sink, std::string_view text) {
  sink.print("\n{}\n{:-<{}}\n", text, "", text.size());
}

std::string ms(std::uint64_t ns) {
  return fmt::format("{:.3f} ms", static_cast<double>(ns) / kNsPerMs);
}

std::string joined(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

std::string frame_text(const ktstr::v1::StackEntry& frame) {
  std::string text =
      frame.symbol().empty() ? fmt::format("{:#x}", frame.address()) : printable_utf8(frame.symbol());
  if (frame.guess()) text += " (guess)";
  return text;
}

template <typename Frames>
void stack(DumpSink& sink, const Frames& frames, std::string_view prefix) {
  for (const ktstr::v1::StackEntry& frame : frames) sink.print("{}{}\n", prefix, frame_text(frame));
}

template <typename Others>
void others(DumpSink& sink, const Others& list, std::string_view prefix) {
  for (const Other& other : list) {
    sink.print("{}{} = {}\n", prefix, printable_utf8(other.name()), printable_utf8(other.value()));
  }
}

std::string waiting(const Task& task) {
  return task.has_waiting_ms() ? fmt::format(" waiting {}ms", task.waiting_ms()) : "";
}

// One line for one task.
std::string brief(const Task& task) {
  std::string text =
      fmt::format("  {:<24} {:<2} cpu={:<3}", fmt::format("{}[{}]", printable_utf8(task.comm()), task.pid()),
                  printable_utf8(task.state_char()), task.has_cpu() ? fmt::format("{}", task.cpu()) : "?");
  text += waiting(task);
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
               ms(h.rendezvous_ns()), ms(h.frozen_ns()), ms(h.capture_ns()), ms(h.inspect_ns()));
  }
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
  title(sink, "FINDINGS");
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
  stack(sink, info.bt(), "  ");
}

void cpu_tasks(const KernelLines& lines, const Cpu& cpu, DumpSink& sink) {
  const std::vector<const Task*> tasks = lines.tasks_of(cpu);
  const std::size_t on_list = KernelLines::runs_ext(cpu) ? 1 : 0;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const bool current = i < on_list;
    sink.put('\n');
    if (tasks[i] == nullptr) {
      const std::int32_t pid = current ? cpu.curr().pid() : cpu.runnable_list(static_cast<int>(i - on_list));
      sink.print(" {}? [{}] is not among the tasks that were found\n", current ? '*' : ' ', pid);
      continue;
    }
    for (const std::string& line : lines.task(*tasks[i], current)) sink.print("{}\n", line);
    if (tasks[i]->stack_size() > 0) sink.put('\n');
    stack(sink, tasks[i]->stack(), "    ");
  }
}

void cpus(const Dump& dump, const KernelLines& lines, DumpSink& sink) {
  title(sink, "CPU states");
  // As the kernel does where it knows the CPU: that of the exit comes first.
  std::vector<const Cpu*> order;
  for (const Cpu& cpu : dump.cpus()) order.push_back(&cpu);
  const Sched* sched = lines.dumped_sched();
  if (sched != nullptr && sched->exit_info().has_exit_cpu() && sched->exit_info().exit_cpu() >= 0) {
    const auto first = static_cast<std::uint32_t>(sched->exit_info().exit_cpu());
    std::stable_partition(order.begin(), order.end(), [&](const Cpu* cpu) { return cpu->cpu() == first; });
  }
  for (const Cpu* one : order) {
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
    cpu_tasks(lines, cpu, sink);
  }
}

void events(const KernelLines& lines, DumpSink& sink) {
  const Sched* sched = lines.dumped_sched();
  if (sched == nullptr || sched->events_size() == 0) return;
  title(sink, "Event counters");
  const std::map<std::string, std::uint64_t> sorted(sched->events().begin(), sched->events().end());
  for (const auto& [name, count] : sorted) sink.print("{:>40}: {:>16}\n", printable_utf8(name), count);
}

void vcpu_line(const Vcpu& vcpu, DumpSink& sink) {
  sink.print("  vCPU {:<3} rip={} ({:#x}) rflags={:#x}{}{}{}{}\n", vcpu.cpu(),
             vcpu.symbol().empty() ? "?" : printable_utf8(vcpu.symbol()), vcpu.rip(), vcpu.rflags(),
             vcpu.user_mode() ? " user" : "", vcpu.interrupts_enabled() ? "" : " irqs-off",
             vcpu.halted() ? " halted" : "",
             vcpu.has_stopped_after_ns() ? " stopped after " + ms(vcpu.stopped_after_ns()) : "");
}

void vcpus(const Dump& dump, DumpSink& sink) {
  title(sink, "vCPUs");
  for (const Cpu& cpu : dump.cpus()) {
    if (!cpu.has_vcpu()) continue;
    vcpu_line(cpu.vcpu(), sink);
    stack(sink, cpu.stack(), "      ");
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
  if (options.all) others(sink, sched.other(), "  other: ");
}

void schedulers(const Dump& dump, const EnumNames& names, const DumpTextOptions& options, DumpSink& sink) {
  title(sink, "Schedulers");
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
  sink.print("idle masks: cpu={} smt={}\n", g.idle_cpus().empty() ? "none" : printable_utf8(g.idle_cpus()),
             g.idle_smt().empty() ? "none" : printable_utf8(g.idle_smt()));
  for (const Sched& sched : dump.scheds()) sched_text(sched, names, options, sink);
}

void dsqs(const Dump& dump, const DumpTextOptions& options, DumpSink& sink) {
  title(sink, "Dispatch queues");
  std::size_t empty = 0;
  for (const Dsq& dsq : dump.dsqs()) {
    const bool interesting = dsq.nr() > 0 || dsq.tasks_size() > 0 || dsq.problems_size() > 0;
    if (interesting || options.all || dsq.kind() == Dsq::USER) {
      write_dsq_text(dsq, sink);
      if (options.all) others(sink, dsq.other(), "  other: ");
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
  title(sink, "Tasks");
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
  for (const Cpu& cpu : dump.cpus()) {
    // Numbers of waits that are over stay in kick_syncs.
    if (cpu.cpus_to_wait().empty()) continue;
    std::string who;
    for (int i = 0; i < cpu.kick_syncs_size(); ++i) {
      if (cpu.kick_syncs(i) != 0) who += fmt::format(" CPU {} (ksync {})", i, cpu.kick_syncs(i));
    }
    if (first) title(sink, "Kick-wait");
    first = false;
    sink.print("CPU {} waits for", cpu.cpu());
    sink.print(" cpus_to_wait={}{}\n", printable_utf8(cpu.cpus_to_wait()), who);
  }
}

void other_members(const Dump& dump, DumpSink& sink) {
  bool first = true;
  const auto block = [&](const std::string& name, const auto& list) {
    if (list.empty()) return;
    if (first) title(sink, "Other members");
    first = false;
    sink.print("{}\n", name);
    others(sink, list, "  ");
  };
  for (const Cpu& cpu : dump.cpus()) block(fmt::format("CPU {}", cpu.cpu()), cpu.other());
  for (const Task& task : dump.tasks()) {
    block(fmt::format("{}[{}]", printable_utf8(task.comm()), task.pid()), task.other());
  }
}

void absences_and_faults(const Dump& dump, DumpSink& sink) {
  if (dump.absent_size() > 0) title(sink, "Absent");
  for (const Absence& absence : dump.absent()) {
    sink.print("{}: {}\n", printable_utf8(absence.what()), printable_utf8(absence.reason()));
  }
  if (dump.faults_size() > 0) title(sink, "Faults");
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
  absences_and_faults(dump, sink);
}

void write_dsq_text(const Dsq& dsq, DumpSink& sink) {
  sink.print("{} id={:#x}", dsq.name().empty() ? "DSQ" : printable_utf8(dsq.name()), dsq.id());
  if (dsq.has_nr()) sink.print(" nr={}", dsq.nr());
  if (dsq.has_seq()) sink.print(" seq={}", dsq.seq());
  if (dsq.priq_nodes() > 0) sink.print(" priq={}", dsq.priq_nodes());
  if (dsq.cursors() > 0) sink.print(" cursors={}", dsq.cursors());
  if (dsq.lock() != 0) sink.print(" lock={:#x}", dsq.lock());
  sink.put('\n');
  for (const std::string& problem : dsq.problems()) sink.print("  PROBLEM: {}\n", printable_utf8(problem));
  for (const DsqEntry& entry : dsq.tasks()) {
    sink.print("  {:>4} {}[{}] waiting {}ms dsq_vtime={} slice={}\n", entry.position(),
               printable_utf8(entry.comm()), entry.pid(), entry.waiting_ms(), entry.dsq_vtime(),
               entry.slice());
  }
}

void write_cpu_text(const KernelLines& lines, const Cpu& cpu, DumpSink& sink) {
  for (const std::string& line : lines.cpu(cpu)) sink.print("{}\n", line);
  if (cpu.has_vcpu()) vcpu_line(cpu.vcpu(), sink);
  stack(sink, cpu.stack(), "    ");
  if (cpu.has_rq_nr_running()) {
    sink.print("  rq: nr_running={} nr_switches={} clock={} cfs={} rt={} dl={}\n", cpu.rq_nr_running(),
               cpu.nr_switches(), cpu.rq_clock(), cpu.cfs_nr_running(), cpu.rt_nr_running(),
               cpu.dl_nr_running());
  }
  others(sink, cpu.other(), "  other: ");
  cpu_tasks(lines, cpu, sink);
}

void write_task_text(const KernelLines& lines, const Task& task, DumpSink& sink) {
  for (const std::string& line : lines.task(task, task.where() == Task::RUNNING)) sink.print("{}\n", line);
  std::string where = Task::Where_Name(task.where());
  std::transform(where.begin(), where.end(), where.begin(), [](char c) {
    return c == '_' ? ' ' : c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  });
  sink.print("      {}{}{} address={:#x} tgid={} class={} prio={} policy={}\n", where,
             task.dsq_name().empty() ? "" : ": " + printable_utf8(task.dsq_name()), waiting(task),
             task.address(), task.tgid(), printable_utf8(task.sched_class()), task.prio(), task.policy());
  sink.print(
      "      cpu={} wake_cpu={} on_cpu={} on_rq={} sum_exec_runtime={} nvcsw={} nivcsw={} run_delay={}\n",
      task.cpu(), task.wake_cpu(), task.on_cpu(), task.on_rq(), task.sum_exec_runtime(), task.nvcsw(),
      task.nivcsw(), task.run_delay());
  if (!task.cgroup().empty()) sink.print("      cgroup={}\n", printable_utf8(task.cgroup()));
  for (const std::string& list : task.found_on()) sink.print("      found on {}\n", printable_utf8(list));
  others(sink, task.other(), "      other: ");
  if (task.stack_size() > 0) sink.put('\n');
  stack(sink, task.stack(), "    ");
}

}  // namespace ktstr
