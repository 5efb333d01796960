// Inspection: what the functions that make a dump's sections share. Internal to host/inspect/scx.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/inspect/scx/scx_inspect.h"

namespace ktstr {

struct Inspection {
  const ScxPlan& plan;
  const GuestKernel& kernel;
  KernelReader& memory;
  const ScxObjects& objects;
  const InspectInput& input;
  ktstr::v1::Dump& dump;
  ReadBudget budget;
  FaultLog faults;
  std::uint64_t jiffies = 0;

  StructLayout::Surroundings around() { return {memory, budget, kernel, objects.nr_cpu_ids, faults}; }

  // The message of the task at `task`; nullptr when it was not captured.
  const ktstr::v1::Task* find_task(Kva task) const {
    const auto found = objects.task_index.find(task);
    if (found == objects.task_index.end() || found->second >= static_cast<std::size_t>(dump.tasks_size()))
      return nullptr;
    return &dump.tasks(static_cast<int>(found->second));
  }
  // Sets address, pid and comm.
  void name_task(Kva task, ktstr::v1::TaskName& name) const {
    name.set_address(task.value());
    if (const auto* message = find_task(task)) {
      name.set_pid(message->pid());
      name.set_comm(message->comm());
    }
  }
  Kva pointer(Kva at) {
    const auto value = memory.read<Kva>(at, budget);
    return value ? *value : Kva();
  }
  void fault(std::string path, const Fault& fault) { faults.add(std::move(path), fault.to_string()); }
  // From jiffies to ms, within about 2^52 of 0, so that one may reckon with it; 0 when HZ is not known.
  std::int64_t ms(std::int64_t ticks) const {
    if (input.hz == 0) return 0;
    constexpr std::int64_t kFar = std::int64_t{1} << 52;
    const auto hz = static_cast<std::int64_t>(input.hz);
    return std::clamp(ticks / hz, -kFar / 1000, kFar / 1000) * 1000 + ticks % hz * 1000 / hz;
  }
};

// The constant's name, else the number.
inline std::string constant_name(const std::vector<Enumerator>& names, std::uint64_t value) {
  for (const Enumerator& one : names) {
    if (one.value == value) return one.name;
  }
  return std::to_string(static_cast<std::int64_t>(value));
}

// "local DSQ of CPU 3", "user DSQ 0x7"
std::string name_of_dsq(ktstr::v1::Dsq::Kind kind, std::optional<std::uint32_t> index, std::uint64_t id);

// The frames of a task that does not run, from its saved stack pointer, on its stack [base, base + size).
void add_sleeping_stack(Inspection& inspection, Kva sp, Kva base,
                        google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>& frames);
// Those of a vCPU that stands in the kernel, `base` being the stack of its current task.
void add_running_stack(Inspection& inspection, const ktstr::v1::Vcpu& vcpu, Kva base,
                       google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>& frames);

void inspect_tasks(Inspection& inspection);
void inspect_task_groups(Inspection& inspection);
void inspect_globals(Inspection& inspection);
void inspect_scheds(Inspection& inspection);
void inspect_cpus(Inspection& inspection);
void inspect_dsqs(Inspection& inspection);
void find_problems(Inspection& inspection);
// Entries of a dispatch buffer (struct scx_dsp_ctx at `context`); `entries` is a field of SchedCpu or Cpu.
void inspect_dispatch_buffer(Inspection& inspection, Kva context, const std::string& path,
                             google::protobuf::RepeatedPtrField<ktstr::v1::DispatchBufferEntry>& entries);

}  // namespace ktstr
