// KvmGuest: all the parts of a kvm guest, built in the order in which a PC comes up: VM, memory, interrupt
// chip, kernel and tables in memory, devices, vCPUs. A clone has its memory and the state of the others from
// a snapshot (kvm_state.cc). What makes them run is KvmMachine.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/machine/host_use.h"
#include "host/machine/kvm/coalesced_writes.h"
#include "host/machine/kvm/cpuid.h"
#include "host/machine/kvm/devices/acpi_power.h"
#include "host/machine/kvm/devices/bus.h"
#include "host/machine/kvm/devices/guest_ram_view.h"
#include "host/machine/kvm/devices/i8042_reset.h"
#include "host/machine/kvm/devices/io_apic.h"
#include "host/machine/kvm/devices/serial_16550.h"
#include "host/machine/kvm/devices/virtio_console.h"
#include "host/machine/kvm/devices/virtio_mmio.h"
#include "host/machine/kvm/guest_clock.h"
#include "host/machine/kvm/guest_ram.h"
#include "host/machine/kvm/vcpu.h"
#include "host/machine/kvm/vcpu_statistics.h"
#include "host/machine/kvm/vm.h"
#include "host/machine/machine.h"

namespace ktstr::kvm {

// Called on vCPUs' threads, without locks.
struct GuestCallbacks {
  std::function<void()> power_off;
  std::function<void()> reset;
  // The event loop has something to fetch: serial output, or a virtio device's queues.
  std::function<void()> attention;
};

// The console's ports.
inline constexpr std::size_t kHvcPort = 0;
inline constexpr std::size_t kFramesPort = 1;
inline constexpr const char* kFramesPortName = "ktstr.frames";

// Neither copied nor moved: the parts refer to each other.
struct KvmGuest {
  explicit KvmGuest(Vm made, GuestRam memory)
      : vm(std::move(made)), ram(std::move(memory)), ram_view(ram.regions()) {}
  KvmGuest(const KvmGuest&) = delete;
  KvmGuest& operator=(const KvmGuest&) = delete;

  Vm vm;
  GuestRam ram;
  GuestRamView ram_view;
  std::unique_ptr<MessageSink> messages;  // these two: only with a split interrupt chip
  std::unique_ptr<IoApic> io_apic;
  std::unique_ptr<InterruptLine> serial_line, console_line;
  std::unique_ptr<Serial16550> serial;
  std::unique_ptr<I8042Reset> i8042;
  std::unique_ptr<AcpiPower> acpi;
  std::unique_ptr<VirtioConsole> console;
  std::unique_ptr<VirtioMmio> console_registers;
  UniqueFd console_doorbell;  // an eventfd: the driver's kicks
  Bus ports, memory_bus;
  std::vector<Vcpu> vcpus;
  std::vector<VcpuStatistics> statistics;  // of each vCPU
  CoalescedWrites coalesced{ports};        // to the serial port
  std::string cpuid_digest;                // XXH3-128 of what the first vCPU was shown
  std::optional<GuestTimes> times;         // of a clone: when it goes on
  std::vector<std::string> warnings;       // of what could be had only in part
};

// Nothing runs yet. Errors: kUsage for what cannot be loaded; kHost, also for a snapshot that is damaged or
// of another guest.
Expected<std::unique_ptr<KvmGuest>> build_guest(const BootSpec& spec, std::string_view command_line,
                                                const HostUse& host_use, const GuestCallbacks& callbacks);

// Whether the guest is told that its CPUs are not preempted for long: they are pinned, and there are enough.
bool has_realtime_hint(const CpuTopology& topology, const HostUse& host_use);

// Puts in the I/O APIC that a split interrupt chip leaves to us.
void plug_in_io_apic(KvmGuest& guest);

// Whether a kvm machine can have this topology and this much memory. Errors: kUsage, kHost.
Expected<void> check_kvm_limits(const BootSpec& spec);

}  // namespace ktstr::kvm
