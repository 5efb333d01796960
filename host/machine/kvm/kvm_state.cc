// From a guest at rest to one that runs
// -------------------------------------
// A clone comes up by the boot sequence of kvm_guest.cc, in which the steps that would put a kernel into
// memory and registers are left out, and this one is put at the end. What must come before what, of the whole
// way:
//
//   1. VM, memory slots: RAM is mapped from the snapshot's file, copy-on-write; nothing is read. MSRs (4)
//      make KVM look at pages of the guest, so RAM is first.
//   2. Interrupt chip: before vCPUs, which get a local APIC only if it is there.
//   3. Lines, doorbells, devices; vCPUs with CPUID (KVM_SET_CPUID2), which decides what registers there
//      are.
//   4. vCPUs: vcpu_state.cc has the order within.
//   5. PICs and I/O APIC: an interrupt that waits in the I/O APIC is sent to a local APIC while it is
//      loaded (kvm_set_ioapic()), so local APICs are complete by then. With a split chip the I/O APIC is
//      ours, and loading it tells KVM where its lines lead. PIT: last of them, it may interrupt through the
//      others.
//   6. Our devices: then each repeats the edge of an interrupt that the guest has not answered; lines lead
//      somewhere only now.
//   7. Traps: need the vCPUs' page tables, and change guest memory or debug registers of KVM's own.
//   8. The clock: kvmclock, TSCs, deadlines (guest_clock.cc). Last, so that the time of all this is charged
//      to nobody.
//   9. KVM_RUN; and the event loop serves all queues once, for kicks that nobody has seen.
//
// Saving has less of an order, because nothing runs: KVM's interrupt chips are read after the vCPUs, as some
// of the vCPUs' calls have effects.
//
// What a clone does not have of its base: what waited in the host for the base's guest. Bytes that were sent
// to it and that it had no buffers for are in the state, so that the state is complete; the machine drops
// them before the clone runs (VirtioConsole::drop_unread()), because whoever starts a clone starts a
// conversation of its own. In the other direction nothing is lost: what the guest has put into its transmit
// queues, or written to its serial port, and that had not been handed on when it was saved, comes to the
// clone's receivers, and to those of the base as well when that goes on.
//
// The processor. CPUID is not in the state: it follows from the topology and the host, and both are to be the
// same. A digest of it is, so that a snapshot that came from another processor, kernel or program is told
// before it fails in odd ways. The TSC's frequency has to be the same, too. (It is measured anew at each
// start of some hosts; what KVM itself takes for the same frequency, 250 millionths, is the same here.)
#include "host/machine/kvm/kvm_state.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "host/machine/kvm/kvm_call.h"
#include "host/machine/kvm/vcpu_state.h"
#include "proto/kvm_state.pb.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint64_t kSameTscPpm = 250;  // tsc_tolerance_ppm of kvm.ko

Expected<void> save_irqchip(const Vm& vm, std::uint32_t id, std::size_t size, std::string& to) {
  kvm_irqchip chip = {};
  chip.chip_id = id;
  if (auto got = KVM_CALL(vm.fd(), KVM_GET_IRQCHIP, &chip); !got)
    return std::unexpected(std::move(got.error()));
  to.assign(reinterpret_cast<const char*>(&chip.chip), size);
  return {};
}

Expected<void> load_irqchip(const Vm& vm, std::uint32_t id, const std::string& from) {
  kvm_irqchip chip = {};
  chip.chip_id = id;
  std::memcpy(&chip.chip, from.data(), std::min(sizeof(chip.chip), from.size()));
  if (auto set = KVM_CALL(vm.fd(), KVM_SET_IRQCHIP, &chip); !set)
    return std::unexpected(std::move(set.error()));
  return {};
}

Expected<void> save_chip(const Vm& vm, v1::KvmChipState& to) {
  if (auto got = save_irqchip(vm, KVM_IRQCHIP_PIC_MASTER, sizeof(kvm_pic_state), *to.mutable_pic_master());
      !got)
    return got;
  if (auto got = save_irqchip(vm, KVM_IRQCHIP_PIC_SLAVE, sizeof(kvm_pic_state), *to.mutable_pic_slave());
      !got)
    return got;
  if (auto got = save_irqchip(vm, KVM_IRQCHIP_IOAPIC, sizeof(kvm_ioapic_state), *to.mutable_io_apic()); !got)
    return got;
  kvm_pit_state2 pit = {};
  if (auto got = KVM_CALL(vm.fd(), KVM_GET_PIT2, &pit); !got) return std::unexpected(std::move(got.error()));
  to.mutable_pit()->assign(reinterpret_cast<const char*>(&pit), sizeof(pit));
  return {};
}

Expected<void> load_chip(const Vm& vm, const v1::KvmChipState& from) {
  if (auto set = load_irqchip(vm, KVM_IRQCHIP_PIC_MASTER, from.pic_master()); !set) return set;
  if (auto set = load_irqchip(vm, KVM_IRQCHIP_PIC_SLAVE, from.pic_slave()); !set) return set;
  if (auto set = load_irqchip(vm, KVM_IRQCHIP_IOAPIC, from.io_apic()); !set) return set;
  kvm_pit_state2 pit = {};
  std::memcpy(&pit, from.pit().data(), std::min(sizeof(pit), from.pit().size()));
  if (auto set = KVM_CALL(vm.fd(), KVM_SET_PIT2, &pit); !set) return std::unexpected(std::move(set.error()));
  return {};
}

// 0 on a host that does not know its own.
std::uint32_t tsc_khz(const Vcpu& vcpu) {
  return static_cast<std::uint32_t>(KVM_CALL(vcpu.fd(), KVM_GET_TSC_KHZ, 0).value_or(0));
}

Expected<void> set_tsc_khz(std::vector<Vcpu>& vcpus, std::uint32_t khz) {
  const std::uint32_t host = tsc_khz(vcpus.front());
  if (host == khz) return {};
  const std::uint64_t difference = std::max(host, khz) - std::min(host, khz);
  if (difference * 1'000'000 > std::uint64_t{host} * kSameTscPpm)
    return fail(ErrorCode::kUsage, fmt::format("the guest's TSC has {} kHz, and this host's {}", khz, host));
  for (Vcpu& vcpu : vcpus) {
    if (auto set = KVM_CALL(vcpu.fd(), KVM_SET_TSC_KHZ, std::uintptr_t{khz}); !set)
      return std::unexpected(std::move(set.error()));
  }
  return {};
}

Expected<void> load_devices(KvmGuest& guest, const v1::KvmState& from) {
  if (auto loaded = guest.serial->load(from.serial()); !loaded) return loaded;
  if (auto loaded = guest.i8042->load(from.i8042()); !loaded) return loaded;
  if (auto loaded = guest.console->load(from.console()); !loaded) return loaded;
  if (auto loaded = guest.console_registers->load(from.console_registers()); !loaded)
    return propagate(std::move(loaded.error()), "loading the console's registers");
  guest.serial->repeat_edge();
  guest.console_registers->repeat_edge();
  return {};
}

}  // namespace

Expected<void> save_kvm_state(KvmGuest& guest, const GuestTimes& times, v1::KvmState& to) {
  for (const std::uint64_t bytes : guest.ram.node_bytes()) to.add_node_bytes(bytes);
  to.set_cpuid_digest(guest.cpuid_digest);
  to.set_tsc_khz(tsc_khz(guest.vcpus.front()));
  to.set_kvmclock_ns(times.kvmclock);
  for (std::size_t cpu = 0; cpu < guest.vcpus.size(); ++cpu) {
    v1::KvmVcpuState& vcpu = *to.add_vcpus();
    if (auto saved = save_vcpu(guest.vm, guest.vcpus[cpu], vcpu); !saved)
      return propagate(std::move(saved.error()), fmt::format("saving vCPU {}", cpu));
    vcpu.set_tsc(times.vcpus[cpu].tsc);
    vcpu.set_tsc_deadline(times.vcpus[cpu].deadline);
  }
  if (guest.io_apic) {
    guest.io_apic->save(*to.mutable_io_apic());
  } else if (auto saved = save_chip(guest.vm, *to.mutable_chip()); !saved) {
    return propagate(std::move(saved.error()), "saving the interrupt chip");
  }
  guest.serial->save(*to.mutable_serial());
  guest.i8042->save(*to.mutable_i8042());
  guest.console_registers->save(*to.mutable_console_registers());
  guest.console->save(*to.mutable_console());
  return {};
}

Expected<void> check_kvm_state(const v1::KvmState& state, std::span<const std::uint64_t> node_bytes,
                               std::span<const std::uint32_t> apic_ids, bool split_chip) {
  if (!std::ranges::equal(state.node_bytes(), node_bytes))
    return fail(ErrorCode::kUsage,
                fmt::format("the snapshot's guest has memory of {} bytes in its nodes, this one {}",
                            fmt::join(state.node_bytes(), ", "), fmt::join(node_bytes, ", ")));
  if (static_cast<std::size_t>(state.vcpus_size()) != apic_ids.size())
    return fail(ErrorCode::kUsage, fmt::format("the snapshot's guest has {} vCPUs, this one {}",
                                               state.vcpus_size(), apic_ids.size()));
  for (int i = 0; i < state.vcpus_size(); ++i) {
    const std::uint32_t id = apic_ids[static_cast<std::size_t>(i)];
    if (state.vcpus(i).apic_id() != id)
      return fail(ErrorCode::kUsage,
                  fmt::format("vCPU {} of the snapshot has the APIC id {}, this guest's {}", i,
                              state.vcpus(i).apic_id(), id));
  }
  if (state.has_io_apic() != split_chip)
    return fail(ErrorCode::kUsage, "the snapshot's guest has another kind of interrupt chip");
  return {};
}

Expected<GuestTimes> load_kvm_state(KvmGuest& guest, const v1::KvmState& from) {
  if (from.cpuid_digest() != guest.cpuid_digest)
    return fail(
        ErrorCode::kUsage,
        "the snapshot's guest was shown another processor: it is of another host, or of another version of "
        "its kernel or of this program");
  if (auto set = set_tsc_khz(guest.vcpus, from.tsc_khz()); !set)
    return std::unexpected(std::move(set.error()));
  GuestTimes times = {.kvmclock = from.kvmclock_ns(), .vcpus = {}};
  for (std::size_t cpu = 0; cpu < guest.vcpus.size(); ++cpu) {
    const v1::KvmVcpuState& vcpu = from.vcpus(static_cast<int>(cpu));
    if (auto loaded = load_vcpu(guest.vm, guest.vcpus[cpu], vcpu); !loaded)
      return propagate(std::move(loaded.error()), fmt::format("loading vCPU {}", cpu));
    times.vcpus.push_back({.tsc = vcpu.tsc(), .deadline = vcpu.tsc_deadline()});
  }
  auto chip = guest.io_apic ? guest.io_apic->load(from.io_apic()) : load_chip(guest.vm, from.chip());
  if (!chip) return propagate(std::move(chip.error()), "loading the interrupt chip");
  if (auto loaded = load_devices(guest, from); !loaded) return std::unexpected(std::move(loaded.error()));
  return times;
}

}  // namespace ktstr::kvm
