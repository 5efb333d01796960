// Kernel stacks of tasks and vCPUs.
#include <array>
#include <vector>

#include "host/inspect/scx/inspection.h"
#include "host/inspect/stack/unwind.h"

namespace ktstr {
namespace {

Unwinder make_unwinder(const Inspection& in) {
  Unwinder unwinder{.orc = in.input.orc, .slide = in.kernel.slide(), .text = {}};
  const auto begin = in.kernel.symbol("_stext");
  const auto end = in.kernel.symbol("_etext");
  if (begin && end) unwinder.text = {begin->value(), end->value()};
  return unwinder;
}

void show(const Inspection& in, const StackTrace& trace,
          google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>& entries) {
  for (const Frame& frame : trace.frames) {
    auto* entry = entries.Add();
    entry->set_address(frame.ip.value());
    entry->set_symbol(in.kernel.describe(frame.ip));
    entry->set_guess(frame.guess);
  }
}

// As scx_capture.cc copied it: stacks are aligned to their size.
StackBounds stack_around(Kva sp, std::uint64_t size) {
  return {sp, sp + (size - sp.value() % size)};
}

}  // namespace

void add_sleeping_stack(Inspection& in, Kva sp, Kva base,
                        google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>& entries) {
  if (sp < base || sp - base >= in.plan.task.stack_bytes) return;  // never ran, or its stack is gone
  const auto start = sleeping_task(in.memory, in.budget, sp);
  if (!start) return in.fault("thread.sp of a task", start.error());
  const StackBounds stack{base, base + in.plan.task.stack_bytes};
  show(in, unwind(in.memory, in.budget, make_unwinder(in), *start, {&stack, 1}), entries);
}

void add_running_stack(Inspection& in, const ktstr::v1::Vcpu& vcpu, Kva base,
                       google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>& entries) {
  // The order of Vcpu.general.
  enum : int { kRax = 0, kRdx = 3, kRdi = 5, kRbp = 6, kR10 = 10, kR13 = 13, kGeneral = 16 };
  if (vcpu.general_size() < kGeneral) return;
  StackStart start{Kva(vcpu.rip()), Kva(vcpu.rsp()), Kva(vcpu.general(kRbp)), true, {}};
  start.registers = StackStart::Registers{vcpu.general(kRax), vcpu.general(kRdx), vcpu.general(kRdi),
                                          vcpu.general(kR10), vcpu.general(kR13)};
  std::vector<StackBounds> stacks;
  if (base.value() != 0) stacks.push_back({base, base + in.plan.task.stack_bytes});
  const bool elsewhere = start.sp < base || start.sp - base >= in.plan.task.stack_bytes;
  if (elsewhere) stacks.push_back(stack_around(start.sp, in.plan.task.stack_bytes));
  show(in, unwind(in.memory, in.budget, make_unwinder(in), start, stacks), entries);
}

}  // namespace ktstr
