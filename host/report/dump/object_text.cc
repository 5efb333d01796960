// One object of a dump with everything about it, for `dump show --cpu, --dsq, --task`.
#include <algorithm>

#include "host/report/dump/dump_text.h"
#include "host/report/dump/safe_text.h"
#include "host/report/dump/text_parts.h"

namespace ktstr {

using namespace ktstr::v1;

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
  if (cpu.has_vcpu()) put_vcpu(cpu.vcpu(), sink);
  put_stack(sink, cpu.stack(), "    ");
  if (cpu.has_rq_nr_running()) {
    sink.print("  rq: nr_running={} nr_switches={} clock={} cfs={} rt={} dl={}\n", cpu.rq_nr_running(),
               cpu.nr_switches(), cpu.rq_clock(), cpu.cfs_nr_running(), cpu.rt_nr_running(),
               cpu.dl_nr_running());
  }
  put_others(sink, cpu.other(), "  other: ");
  put_cpu_tasks(lines, cpu, sink);
}

void write_task_text(const KernelLines& lines, const Task& task, DumpSink& sink) {
  for (const std::string& line : lines.task(task, task.where() == Task::RUNNING)) sink.print("{}\n", line);
  std::string where = Task::Where_Name(task.where());
  std::transform(where.begin(), where.end(), where.begin(), [](char c) {
    return c == '_' ? ' ' : c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  });
  sink.print("      {}{}{} address={:#x} tgid={} class={} prio={} policy={}\n", where,
             task.dsq_name().empty() ? "" : ": " + printable_utf8(task.dsq_name()), waiting_text(task),
             task.address(), task.tgid(), printable_utf8(task.sched_class()), task.prio(), task.policy());
  sink.print(
      "      cpu={} wake_cpu={} on_cpu={} on_rq={} sum_exec_runtime={} nvcsw={} nivcsw={} run_delay={}\n",
      task.cpu(), task.wake_cpu(), task.on_cpu(), task.on_rq(), task.sum_exec_runtime(), task.nvcsw(),
      task.nivcsw(), task.run_delay());
  if (!task.cgroup().empty()) sink.print("      cgroup={}\n", printable_utf8(task.cgroup()));
  for (const std::string& list : task.found_on()) sink.print("      found on {}\n", printable_utf8(list));
  put_others(sink, task.other(), "      other: ");
  if (task.stack_size() > 0) sink.put('\n');
  put_stack(sink, task.stack(), "    ");
}
}  // namespace ktstr
