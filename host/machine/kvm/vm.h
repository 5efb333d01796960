// Vm: one virtual machine of the KVM API (Documentation/virt/kvm/api.rst): memory slots, interrupt chip,
// clock, vCPUs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/machine/kvm/devices/bus.h"
#include "host/machine/kvm/devices/io_apic.h"
#include "host/machine/kvm/kvm_capabilities.h"
#include "host/machine/kvm/kvm_requests.h"
#include "host/machine/machine.h"

namespace ktstr::kvm {

// Opens /dev/kvm and looks whether it is one that we can use. Error kHost: no /dev/kvm, no permission (the
// detail says what to do), a capability missing (by name). `ask`: who answers for capabilities, for tests.
Expected<UniqueFd> open_kvm(std::vector<CapabilityAnswer> (*ask)(int kvm) = &ask_capabilities);

class Vm {
 public:
  // Opens /dev/kvm and makes a VM with nothing in it. Error kHost: no /dev/kvm, no permission (naming who has
  // it), a capability missing (by name).
  // `ask`: who says which capabilities there are.
  static Expected<Vm> create(std::vector<CapabilityAnswer> (*ask)(int kvm) = &ask_capabilities);

  // KVM_CHECK_EXTENSION on the VM; 0 when it is not there.
  int capability(int number) const;

  // One memory slot for each region.
  Expected<void> set_memory(std::span<const RamRegion> regions);
  // Where KVM may put its own pages; must come before the first vCPU (api.rst 4.40, 4.35).
  Expected<void> set_reserved_pages();
  // PIC, I/O APIC and local APICs in the kernel, and a PIT; or, where an APIC id does not fit into 8 bits,
  // only the local APICs (split), with x2APIC ids. Before the first vCPU.
  enum class Chip { kFull, kSplit };
  Expected<void> create_interrupt_chip(Chip chip);

  Expected<UniqueFd> create_vcpu(std::uint32_t id);
  // Bytes of a vCPU's shared kvm_run.
  std::size_t run_size() const { return run_size_; }
  // KVM_GET_SUPPORTED_CPUID.
  Expected<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;

  // KVM_GET_MSR_INDEX_LIST: registers of a vCPU that should be saved with it.
  Expected<std::vector<std::uint32_t>> msr_numbers() const;

  // Every write of 4 bytes to `gpa` adds 1 to the eventfd, without an exit to us.
  Expected<void> add_doorbell(std::uint64_t gpa, int eventfd);
  // A line that raises `gsi` by an edge.
  Expected<std::unique_ptr<InterruptLine>> create_interrupt_line(std::uint32_t gsi);
  // With a split chip: what the lines become, by gsi. They replace the former ones; a line without a message
  // does nothing.
  Expected<void> set_message_routes(std::span<const std::optional<InterruptMessage>> routes);
  Expected<void> send_message(const InterruptMessage& message);

  // KVM lets the host's CPU go at once when a vCPU halts, and does not spin first. Nothing on a KVM without
  // KVM_CAP_HALT_POLL, which does as its module's parameter says. api.rst 7.20.
  void stop_halt_polling();

  // The guest's kvmclock, ns, and what else KVM_GET_CLOCK tells; api.rst 4.29, 4.30. Only with all vCPUs out
  // of KVM_RUN.
  Expected<kvm_clock_data> clock() const;
  Expected<void> set_clock(std::uint64_t nanoseconds);

  int fd() const { return vm_.get(); }

 private:
  UniqueFd system_;
  UniqueFd vm_;
  std::size_t run_size_ = 0;
};

}  // namespace ktstr::kvm
