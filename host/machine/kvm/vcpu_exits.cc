#include "host/machine/kvm/vcpu_exits.h"

#include <algorithm>
#include <cstring>
#include <span>

#include <fmt/format.h>

#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/kvm_call.h"

namespace ktstr::kvm {
namespace {

using Next = VcpuThreads::Next;

// KVM_INTERNAL_ERROR_DELIVERY_EV: an exit while an event was being delivered. Some hosts report it though
// none was (platform notes: an L1 of 6.18 on MMIO); the exit is then answered by running again.
constexpr std::uint32_t kDeliveryEvent = 3;
constexpr int kMaxRetries = 1000;

}  // namespace

std::string describe_vcpu(const Vcpu& vcpu) {
  const auto regs = vcpu.registers();
  if (!regs) return "no registers: " + regs.error().to_string();
  return fmt::format(
      "rip {:#x} rsp {:#x} rflags {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} cr0 {:#x} cr2 {:#x} cr3 "
      "{:#x} "
      "cr4 {:#x} efer {:#x} cs {:#x}",
      regs->rip, regs->rsp, regs->rflags, regs->rax, regs->rbx, regs->rcx, regs->rdx, regs->cr0, regs->cr2,
      regs->cr3, regs->cr4, regs->efer, regs->cs);
}

VcpuExits::VcpuExits(KvmGuest& guest, const KvmTraps& traps, ExitCallbacks callbacks)
    : guest_(guest),
      traps_(traps),
      callbacks_(std::move(callbacks)),
      devices_{guest.serial.get(), guest.i8042.get(), guest.acpi.get(), guest.console_registers.get(),
               guest.io_apic.get()} {}

Next VcpuExits::handle(Vcpu& vcpu, int error) {
  // What was written before this exit comes first.
  guest_.coalesced.drain();
  if (error != 0) {
    return end(vcpu, GuestEnd::kFailed,
               Error::from_errno(ErrorCode::kHost, fmt::format("KVM_RUN of vCPU {}", vcpu.index()), error)
                   .to_string());
  }
  switch (vcpu.run().exit_reason) {
    case KVM_EXIT_IO:
      return port_io(vcpu);
    case KVM_EXIT_MMIO:
      return memory_io(vcpu);
    case KVM_EXIT_DEBUG:
      return debug(vcpu);
    case KVM_EXIT_INTR:
      count(kInterrupted);
      return Next::kRun;
    case KVM_EXIT_IOAPIC_EOI:
      if (guest_.io_apic) guest_.io_apic->end_of_interrupt(vcpu.run().eoi.vector);
      count(guest_.io_apic.get());
      return Next::kRun;
    case KVM_EXIT_SHUTDOWN:
      return triple_fault(vcpu);
    case KVM_EXIT_SYSTEM_EVENT:
      return system_event(vcpu);
    case KVM_EXIT_INTERNAL_ERROR:
      return internal_error(vcpu);
    case KVM_EXIT_FAIL_ENTRY:
      return end(vcpu, GuestEnd::kFailed,
                 fmt::format("the CPU refused to enter vCPU {}: hardware reason {:#x}; {}", vcpu.index(),
                             vcpu.run().fail_entry.hardware_entry_failure_reason, describe_vcpu(vcpu)));
    default:
      return end(vcpu, GuestEnd::kFailed,
                 fmt::format("vCPU {} ended with {}; {}", vcpu.index(), exit_name(vcpu.run().exit_reason),
                             describe_vcpu(vcpu)));
  }
}

// What a triple fault leaves of an AMD processor's state is undefined, so KVM resets the vCPU before it tells
// us (shutdown_interception() of arch/x86/kvm/svm/svm.c).
Next VcpuExits::triple_fault(Vcpu& vcpu) {
  constexpr std::uint64_t kResetRip = 0xfff0;
  constexpr std::uint64_t kProtection = 1;  // of CR0
  const auto regs = vcpu.registers();
  const bool was_reset = regs && regs->rip == kResetRip && (regs->cr0 & kProtection) == 0;
  return end(
      vcpu, GuestEnd::kTripleFault,
      fmt::format("vCPU {}: {}{}", vcpu.index(),
                  was_reset ? "this host's KVM has reset it, its registers are those of a reset: " : "",
                  describe_vcpu(vcpu)));
}

Next VcpuExits::port_io(Vcpu& vcpu) {
  kvm_run& run = vcpu.run();
  const auto& io = run.io;
  const bool out = io.direction == KVM_EXIT_IO_OUT;
  if (out && io.port == kTrapPort) {
    if (const auto hit = traps_.port_hit(vcpu)) {
      count(kTrap);
      callbacks_.trapped(vcpu.index(), *hit);
      return Next::kPark;
    }
  }
  // A string instruction comes as several accesses to one port.
  auto* const bytes = reinterpret_cast<std::byte*>(&run) + io.data_offset;
  for (std::uint32_t i = 0; i < io.count; ++i) {
    const std::span<std::byte> data(bytes + std::size_t{i} * io.size, io.size);
    count(out ? guest_.ports.write(io.port, data) : guest_.ports.read(io.port, data));
  }
  return Next::kRun;
}

Next VcpuExits::memory_io(Vcpu& vcpu) {
  auto& mmio = vcpu.run().mmio;
  const std::span<std::byte> data(reinterpret_cast<std::byte*>(mmio.data),
                                  std::min<std::size_t>(mmio.len, sizeof(mmio.data)));
  const bool write = mmio.is_write != 0;
  count(write ? guest_.memory_bus.write(mmio.phys_addr, data) : guest_.memory_bus.read(mmio.phys_addr, data));
  return Next::kRun;
}

Next VcpuExits::debug(Vcpu& vcpu) {
  count(kTrap);
  const auto hit = traps_.debug_hit(vcpu);
  if (!hit) {
    // The guest's own (a single step of its debugger, a uprobe), or of a trap that was just removed.
    if (auto given = vcpu.give_debug_exception(vcpu.run().debug.arch.dr6); !given)
      return end(vcpu, GuestEnd::kFailed, given.error().to_string());
    return Next::kRun;
  }
  callbacks_.trapped(vcpu.index(), *hit);
  return Next::kPark;
}

Next VcpuExits::system_event(Vcpu& vcpu) {
  const std::uint32_t type = vcpu.run().system_event.type;
  switch (type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
      return end(vcpu, GuestEnd::kPoweredOff, "");
    case KVM_SYSTEM_EVENT_RESET:
    case KVM_SYSTEM_EVENT_CRASH:
      return end(vcpu, GuestEnd::kReset, "");
    default:
      return end(vcpu, GuestEnd::kFailed, fmt::format("vCPU {}: system event {}", vcpu.index(), type));
  }
}

Next VcpuExits::internal_error(Vcpu& vcpu) {
  const auto& internal = vcpu.run().internal;
  if (internal.suberror == kDeliveryEvent && kinds_[kRetried] < kMaxRetries) {
    kvm_vcpu_events events = {};
    if (KVM_CALL(vcpu.fd(), KVM_GET_VCPU_EVENTS, &events) && events.exception.injected == 0 &&
        events.nmi.injected == 0 && events.interrupt.injected == 0) {
      count(kRetried);
      return Next::kRun;
    }
  }
  std::string detail =
      fmt::format("KVM_EXIT_INTERNAL_ERROR on vCPU {}, suberror {}", vcpu.index(), internal.suberror);
  const auto& emulation = vcpu.run().emulation_failure;
  if (internal.suberror == KVM_INTERNAL_ERROR_EMULATION && emulation.ndata >= 1 &&
      (emulation.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
    const auto size = std::min<std::size_t>(emulation.insn_size, sizeof(emulation.insn_bytes));
    detail += fmt::format(": cannot emulate the instruction {:02x}",
                          fmt::join(emulation.insn_bytes, emulation.insn_bytes + size, " "));
  } else if (const auto regs = vcpu.general_registers()) {
    kvm_translation at = {};
    at.linear_address = regs->rip;
    std::array<std::byte, 16> code = {};
    if (KVM_CALL(vcpu.fd(), KVM_TRANSLATE, &at) && at.valid != 0 &&
        guest_.ram_view.read(at.physical_address, code)) {
      detail += "; code at rip";
      for (const std::byte one : code) detail += fmt::format(" {:02x}", std::to_integer<unsigned>(one));
    }
  }
  return end(vcpu, GuestEnd::kFailed, detail + "; " + describe_vcpu(vcpu));
}

Next VcpuExits::end(Vcpu& vcpu, GuestEnd end, std::string detail) {
  count(kOther);
  callbacks_.ended(vcpu.index(), end, std::move(detail));
  return Next::kPark;
}

void VcpuExits::count(const BusDevice* device) {
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    if (device != nullptr && devices_[i] == device) {
      device_exits_[i].fetch_add(1, std::memory_order_relaxed);
      return;
    }
  }
  count(kNobody);
}

std::vector<MachineStatistics::Counter> VcpuExits::counts() const {
  std::vector<MachineStatistics::Counter> counts;
  for (std::size_t i = 0; i < devices_.size(); ++i)
    if (devices_[i] != nullptr) counts.push_back({std::string(devices_[i]->name()), device_exits_[i].load()});
  static constexpr std::array<const char*, kKinds> kNames = {"nobody", "trap", "interrupted", "retried",
                                                             "other"};
  for (std::size_t i = 0; i < kKinds; ++i) counts.push_back({kNames[i], kinds_[i].load()});
  std::erase_if(counts, [](const auto& counter) { return counter.value == 0; });
  return counts;
}

}  // namespace ktstr::kvm
