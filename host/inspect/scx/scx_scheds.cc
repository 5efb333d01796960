// Globals of sched_ext, the schedulers, and why one is on its way out.
#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "host/inspect/scx/inspection.h"

namespace ktstr {
namespace {

std::uint64_t sign_extended(std::uint64_t value, std::uint32_t size) {
  const std::uint32_t shift = 64 - 8 * size;
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(value << shift) >> shift);
}

void set_global(ktstr::v1::ScxGlobals& globals, const google::protobuf::FieldDescriptor* field,
                std::uint64_t value) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = globals.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->SetInt32(&globals, field, static_cast<std::int32_t>(value));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection->SetInt64(&globals, field, static_cast<std::int64_t>(value));
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection->SetUInt32(&globals, field, static_cast<std::uint32_t>(value));
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->SetUInt64(&globals, field, value);
    default:
      return reflection->SetBool(&globals, field, value != 0);
  }
}

void inspect_global(Inspection& in, const GlobalField& global) {
  auto& globals = *in.dump.mutable_globals();
  std::string tried;
  for (const GlobalField::Choice& choice : global.choices) {
    const auto at = in.kernel.symbol(choice.symbol);
    if (!at) {
      tried += (tried.empty() ? "" : ", ") + choice.symbol;
      continue;
    }
    std::array<std::byte, 8> bytes{};
    if (const auto done = in.memory.read(*at, std::span(bytes).first(choice.size), in.budget); !done)
      return in.fault(choice.symbol, done.error());
    const auto value = std::bit_cast<std::uint64_t>(bytes);
    set_global(globals, global.field, choice.is_signed ? sign_extended(value, choice.size) : value);
    if (global.choices.size() > 1) {
      auto* access = in.dump.add_access();
      access->set_field("ScxGlobals." + global.field->name());
      access->set_path(choice.symbol);
    }
    return;
  }
  auto* absence = in.dump.add_absent();
  absence->set_what("ScxGlobals." + global.field->name());
  absence->set_reason(in.kernel.symbols().lacks(tried));
}

// nullopt: the mask was not allocated, or cannot be read.
std::optional<std::string> mask_at(Inspection& in, Kva at, const std::string& path) {
  Kva mask = at;
  if (in.plan.masks_are_pointers) mask = in.pointer(at);
  if (mask.value() == 0) return std::nullopt;
  std::vector<std::byte> bytes(in.plan.mask_bytes());
  if (const auto done = in.memory.read(mask, bytes, in.budget); !done) {
    in.fault(path, done.error());
    return std::nullopt;
  }
  return cpu_list(bytes, in.objects.nr_cpu_ids);
}

void inspect_idle_masks(Inspection& in) {
  auto& globals = *in.dump.mutable_globals();
  for (const std::string_view name : kIdleMasks) {
    const auto at = in.kernel.symbol(name);
    if (!at) continue;
    if (auto mask = mask_at(in, *at + in.plan.idle_cpu, std::string(name) + ".cpu"))
      globals.set_idle_cpus(std::move(*mask));
    if (auto mask = mask_at(in, *at + in.plan.idle_smt, std::string(name) + ".smt"))
      globals.set_idle_smt(std::move(*mask));
    break;
  }
  const auto by_node = in.kernel.symbol("scx_idle_node_masks");
  const Kva table = by_node ? in.pointer(*by_node) : Kva();
  const auto count_at = in.kernel.symbol("nr_node_ids");
  const auto count =
      count_at ? in.memory.read<std::uint32_t>(*count_at, in.budget) : FaultOr<std::uint32_t>(1U);
  for (std::uint32_t node = 0; table.value() != 0 && count && node < std::min(*count, kMaxNumaNodes);
       ++node) {
    const Kva masks = in.pointer(table + std::uint64_t{8} * node);
    globals.add_idle_cpus_by_node(
        masks.value() == 0
            ? ""
            : mask_at(in, masks + in.plan.idle_cpu, fmt::format("scx_idle_node_masks[{}]->cpu", node))
                  .value_or(""));
  }
}

// Adds the counters at `stats` to `events`, and to `sums`.
void inspect_events(Inspection& in, Kva stats, const std::string& path,
                    google::protobuf::Map<std::string, std::uint64_t>& events,
                    google::protobuf::Map<std::string, std::uint64_t>& sums) {
  std::vector<std::byte> bytes(in.plan.event_stats_size);
  if (const auto done = in.memory.read(stats, bytes, in.budget); !done) return in.fault(path, done.error());
  for (const Place& counter : in.plan.event_counters) {
    const auto value = extract(counter, bytes);
    if (!value) continue;
    events[counter.path] = *value;
    sums[counter.path] += *value;
  }
}

void inspect_sched_cpus(Inspection& in, const SchedObjects& objects, const std::string& path,
                        ktstr::v1::Sched& sched) {
  const SchedCpuPlan& plan = in.plan.sched_cpu;
  for (const SchedCpuObjects& one : objects.cpus) {
    auto& cpu = *sched.add_cpus();
    cpu.set_cpu(one.cpu);
    const std::string here = fmt::format("{}->pcpu[{}]", path, one.cpu);
    if (one.pcpu.value() != 0) {
      const ObjectCopy copy = plan.layout.copy(in.memory, one.pcpu, here, in.faults, in.budget);
      plan.layout.fill(cpu, copy, here, in.around());
      if (plan.dispatch_context)
        inspect_dispatch_buffer(in, one.pcpu + plan.dispatch_context->offset, here,
                                *cpu.mutable_dispatch_buffer());
    }
    if (one.event_stats.value() != 0)
      inspect_events(in, one.event_stats, here + ".event_stats", *cpu.mutable_events(),
                     *sched.mutable_events());
  }
}

void inspect_sched(Inspection& in, const SchedObjects& objects) {
  const SchedPlan& plan = in.plan.sched;
  auto& sched = *in.dump.add_scheds();
  sched.set_address(objects.sched.value());
  sched.set_parent(objects.parent.value());
  const std::string path = fmt::format("scheduler {}", objects.sched);
  const ObjectCopy copy = plan.layout.copy(in.memory, objects.sched, path, in.faults, in.budget);
  plan.layout.fill(sched, copy, path, in.around());
  for (const Place& callback : plan.callbacks) {
    if (copy.number(callback).value_or(0) != 0) sched.add_callbacks(callback.path);
  }
  sched.set_place(sched.has_level() && sched.level() > 0
                      ? fmt::format("sub{}-{} {}", sched.level(), sched.sub_cgroup_id(), sched.cgrp_path())
                      : "root");
  if (plan.legacy) {
    // The one scheduler's state is in globals.
    if (in.dump.globals().has_scx_exit_kind()) sched.set_exit_kind(in.dump.globals().scx_exit_kind());
    if (in.dump.globals().has_scx_watchdog_timeout())
      sched.set_watchdog_timeout(in.dump.globals().scx_watchdog_timeout());
  }
  if (!sched.has_watchdog_timeout() && in.dump.globals().has_scx_watchdog_timeout())
    sched.set_watchdog_timeout(in.dump.globals().scx_watchdog_timeout());
  if (sched.has_exit_kind())
    sched.set_exit_kind_name(constant_name(in.plan.constants.exit_kinds,
                                           static_cast<std::uint64_t>(std::int64_t{sched.exit_kind()})));
  inspect_sched_cpus(in, objects, path, sched);
  if (objects.exit_info.value() != 0) {
    inspect_exit_info(in.plan, in.kernel, in.memory, objects.exit_info, *sched.mutable_exit_info());
    sched.mutable_exit_info()->set_read("at the freeze");
  }
}

}  // namespace

void inspect_dispatch_buffer(Inspection& in, Kva context, const std::string& path,
                             google::protobuf::RepeatedPtrField<ktstr::v1::DispatchBufferEntry>& entries) {
  if (!in.plan.dispatch_buffer) return;
  const DispatchBufferPlan& plan = *in.plan.dispatch_buffer;
  const auto cursor = in.memory.read<std::uint32_t>(context + plan.cursor, in.budget);
  if (!cursor) return in.fault(path + ".dsp_ctx", cursor.error());
  if (*cursor > kMaxDispatchEntries)
    in.faults.add(path + ".dsp_ctx.cursor", fmt::format("{} is more than {}", *cursor, kMaxDispatchEntries));
  for (std::uint32_t i = 0; i < std::min(*cursor, kMaxDispatchEntries); ++i) {
    const std::string here = fmt::format("{}.dsp_ctx.buf[{}]", path, i);
    const Kva at = context + plan.entries + i * plan.entry.type().size;
    auto& entry = *entries.Add();
    plan.entry.fill(entry, plan.entry.copy(in.memory, at, here, in.faults, in.budget), here, in.around());
    if (const auto* task = in.find_task(Kva(entry.task()))) {
      entry.set_pid(task->pid());
      entry.set_comm(task->comm());
    }
  }
}

void inspect_globals(Inspection& in) {
  for (const GlobalField& global : in.plan.globals) inspect_global(in, global);
  inspect_idle_masks(in);
  auto& globals = *in.dump.mutable_globals();
  in.jiffies = globals.jiffies_64();
  if (globals.has_scx_watchdog_timestamp() && globals.scx_watchdog_timestamp() != 0 && in.input.hz != 0) {
    const auto ago = static_cast<std::int64_t>(in.jiffies - globals.scx_watchdog_timestamp());
    globals.set_watchdog_ran_ms_ago(static_cast<std::uint64_t>(std::max<std::int64_t>(0, in.ms(ago))));
  }
}

void inspect_scheds(Inspection& in) {
  for (const SchedObjects& objects : in.objects.scheds) inspect_sched(in, objects);
}

void inspect_exit_info(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory, Kva info,
                       ktstr::v1::ScxExitInfo& message) {
  FaultLog faults;
  ReadBudget budget(std::uint64_t{8} << 20, 100'000);
  const std::string path = "exit_info";
  message.Clear();
  const ObjectCopy copy = plan.exit_info.copy(memory, info, path, faults, budget);
  plan.exit_info.fill(message, copy, path, {memory, budget, kernel, plan.max_cpus, faults});
  if (message.has_kind())
    message.set_kind_name(
        constant_name(plan.constants.exit_kinds, static_cast<std::uint64_t>(std::int64_t{message.kind()})));
  const auto number = [&](const std::optional<Place>& place) {
    return place ? copy.number(*place).value_or(0) : 0;
  };
  const Kva bt(number(plan.exit_bt));
  for (std::uint64_t i = 0; bt.value() != 0 && i < std::min(number(plan.exit_bt_len), kMaxBacktrace); ++i) {
    const auto address = memory.read<Kva>(bt + 8 * i, budget);
    if (!address) break;
    auto* frame = message.add_bt();
    frame->set_address(address->value());
    frame->set_symbol(kernel.describe(*address));
  }
  const Kva dump(number(plan.exit_dump));
  if (dump.value() == 0) return;
  if (auto text = memory.read_c_string(dump, StructLayout::kMaxDumpText, budget))
    message.set_dump(std::move(text->text));
}

}  // namespace ktstr
