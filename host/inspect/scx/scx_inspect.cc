#include "host/inspect/scx/scx_inspect.h"

#include <algorithm>

#include "host/inspect/scx/inspection.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kInspectBytes = std::uint64_t{2} << 30;
constexpr std::uint64_t kInspectReads = 200'000'000;

// Errors first, then warnings; within each the order in which they were found.
void sort_findings(ktstr::v1::Dump& dump) {
  auto& findings = *dump.mutable_findings();
  std::stable_sort(findings.pointer_begin(), findings.pointer_end(),
                   [](const auto* a, const auto* b) { return a->severity() > b->severity(); });
}

}  // namespace

ktstr::v1::Dump inspect_scx(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                            const ScxObjects& objects, const InspectInput& input) {
  ktstr::v1::Dump dump;
  Inspection inspection{plan, kernel, memory, objects, input, dump, ReadBudget(kInspectBytes, kInspectReads),
                        {},   0};
  for (const auto& absence : plan.absent()) *dump.add_absent() = absence;
  for (const auto& absence : objects.absent) *dump.add_absent() = absence;
  auto& clocks = *dump.add_absent();
  clocks.set_what("TSC and ktime");
  clocks.set_reason("they are in no memory of the guest; clock_ns of the header is its latest clock that is");
  for (const auto& access : plan.access()) *dump.add_access() = access;
  for (const auto& table : plan.enum_tables) *dump.add_enums() = table;
  for (const Flaw& flaw : objects.flaws) inspection.faults.add(flaw.path, flaw.text);
  inspection.faults.add_nameless(objects.flaws_left_out);
  inspect_globals(inspection);
  inspect_tasks(inspection);
  inspect_task_groups(inspection);
  inspect_scheds(inspection);
  inspect_cpus(inspection);
  inspect_dsqs(inspection);
  find_problems(inspection);
  sort_findings(dump);
  for (const auto& fault : inspection.faults.faults()) *dump.add_faults() = fault;
  auto& header = *dump.mutable_header();
  header.set_faults(static_cast<std::uint32_t>(inspection.faults.count()));
  header.set_jiffies(inspection.jiffies);
  for (const auto& cpu : dump.cpus()) header.set_clock_ns(std::max(header.clock_ns(), cpu.rq_clock()));
  header.set_hz(input.hz);
  header.set_nr_cpu_ids(objects.nr_cpu_ids);
  header.set_incomplete(objects.incomplete);
  return dump;
}

}  // namespace ktstr
