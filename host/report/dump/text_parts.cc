#include "host/report/dump/text_parts.h"

#include "host/report/dump/safe_text.h"

namespace ktstr {

using namespace ktstr::v1;

namespace {

constexpr double kNsPerMs = 1e6;

std::string frame_text(const ktstr::v1::StackEntry& frame) {
  std::string text =
      frame.symbol().empty() ? fmt::format("{:#x}", frame.address()) : printable_utf8(frame.symbol());
  if (frame.guess()) text += " (guess)";
  return text;
}

}  // namespace

void put_title(DumpSink& sink, std::string_view text) {
  sink.print("\n{}\n{:-<{}}\n", text, "", text.size());
}

std::string ms_text(std::uint64_t ns) {
  return fmt::format("{:.3f} ms", static_cast<double>(ns) / kNsPerMs);
}

std::string joined(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

void put_stack(DumpSink& sink, const google::protobuf::RepeatedPtrField<StackEntry>& frames,
               std::string_view prefix) {
  for (const ktstr::v1::StackEntry& frame : frames) sink.print("{}{}\n", prefix, frame_text(frame));
}

void put_others(DumpSink& sink, const google::protobuf::RepeatedPtrField<Other>& list,
                std::string_view prefix) {
  for (const Other& other : list) {
    sink.print("{}{} = {}\n", prefix, printable_utf8(other.name()), printable_utf8(other.value()));
  }
}

std::string waiting_text(const Task& task) {
  return task.has_waiting_ms() ? fmt::format(" waiting {}ms", task.waiting_ms()) : "";
}

void put_vcpu(const Vcpu& vcpu, DumpSink& sink) {
  sink.print("  vCPU {:<3} rip={} ({:#x}) rflags={:#x}{}{}{}{}\n", vcpu.cpu(),
             vcpu.symbol().empty() ? "?" : printable_utf8(vcpu.symbol()), vcpu.rip(), vcpu.rflags(),
             vcpu.user_mode() ? " user" : "", vcpu.interrupts_enabled() ? "" : " irqs-off",
             vcpu.halted() ? " halted" : "",
             vcpu.has_stopped_after_ns() ? " stopped after " + ms_text(vcpu.stopped_after_ns()) : "");
}

void put_cpu_tasks(const KernelLines& lines, const Cpu& cpu, DumpSink& sink) {
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
    put_stack(sink, tasks[i]->stack(), "    ");
  }
}

}  // namespace ktstr
