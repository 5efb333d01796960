// Vcpu: one virtual CPU of the KVM API. Every call but cancel() is made by the thread that runs it, or by
// another one while that thread is parked: KVM lets one caller at a time in (vcpu->mutex).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/mapping.h"
#include "common/unique_fd.h"
#include "host/machine/kvm/kvm_requests.h"
#include "host/machine/kvm/vm.h"
#include "host/machine/machine.h"

namespace ktstr::kvm {

class Vcpu {
 public:
  // `index`: of our own count; `id`: its APIC id.
  static Expected<Vcpu> create(Vm& vm, std::uint32_t index, std::uint32_t id);

  std::uint32_t index() const { return index_; }
  std::uint32_t id() const { return id_; }
  // What KVM shares with us: why it came back, and immediate_exit.
  kvm_run& run() const { return *run_; }

  // CPUID, then the state in which a boot loader hands over: 64-bit mode at `entry` for the boot CPU (`entry`
  // not 0), waiting for its start-up interrupt for the others.
  // With `x2apic` its local APIC is in x2APIC mode, as firmware hands over where ids do not fit into 8 bits:
  // a kernel that is not sees no CPU with such an id (acpi_parse_x2apic()).
  Expected<void> set_up(std::span<const kvm_cpuid_entry2> cpuid, std::uint64_t entry, bool x2apic = false);

  // What all other state depends on; set_up() does it too.
  Expected<void> set_cpuid(std::span<const kvm_cpuid_entry2> cpuid);

  // KVM_RUN: 0, or the errno (EINTR for a signal or immediate_exit, EAGAIN for a vCPU that waits to be
  // started).
  int enter();
  // Completes what the last exit left pending (the register that an IN fills, the skipping of an OUT) without
  // running the guest.
  Expected<void> complete_exit();
  // Makes a KVM_RUN that is about to start return at once. From any thread, and from signal handlers.
  void cancel(bool on) const { __atomic_store_n(&run_->immediate_exit, on ? 1 : 0, __ATOMIC_RELEASE); }

  // What KVM told at the last exit, without asking it: of a vCPU whose thread has not come back. Any thread.
  // "KVM_EXIT_IO, a write to port 0x3f8"; and the instruction pointer, where KVM leaves it in the shared page
  // (KVM_CAP_SYNC_REGS).
  std::string last_exit() const;
  std::optional<std::uint64_t> last_rip() const;

  Expected<VcpuRegisters> registers() const;
  Expected<kvm_regs> general_registers() const;
  Expected<void> set_general_registers(const kvm_regs& regs);
  Expected<std::uint64_t> msr(std::uint32_t index) const;
  Expected<void> set_msr(std::uint32_t index, std::uint64_t value);
  Expected<void> set_guest_debug(const kvm_guest_debug& debug);
  // Hands the guest a debug exception that came to us because we use its debug registers; `dr6`: why, as KVM
  // said. What is left in it of nothing but our own registers is dropped.
  Expected<void> give_debug_exception(std::uint64_t dr6);
  // Tells the guest's watchdogs that it was held (KVM_KVMCLOCK_CTRL); no error when the guest has no
  // kvm-clock yet.
  void note_pause();

  int fd() const { return fd_.get(); }

 private:
  Expected<void> set_msrs();
  Expected<void> set_local_interrupts();
  Expected<void> set_boot_registers(std::uint64_t entry);
  Expected<void> set_x2apic_mode();
  void note_exit();

  UniqueFd fd_;
  Mapping shared_;
  kvm_run* run_ = nullptr;
  std::uint32_t index_ = 0;
  std::uint32_t id_ = 0;
  // Of the last exit, for other threads: KVM clears the shared page's reason when it runs again.
  struct Exit {
    std::uint32_t reason = 0;
    bool write = false;
    std::uint64_t address = 0;  // port, guest-physical address, suberror
  };
  Exit exit_;
};

// "KVM_EXIT_IO"; "exit 99" of one without a name here.
std::string exit_name(std::uint32_t reason);

}  // namespace ktstr::kvm
