// A state as a guest of one vCPU may have it, made without KVM; for tests of whoever reads it.
#pragma once

#include <linux/kvm.h>

#include "host/machine/kvm/kvm_requests.h"
#include "host/machine/kvm/state_file.h"
#include "proto/kvm_state.pb.h"

namespace ktstr::kvm::tiny {

inline v1::KvmState sample_state() {
  v1::KvmState state;
  state.set_version(kKvmStateVersion);
  state.set_end(kKvmStateEnd);
  state.add_node_bytes(std::uint64_t{64} << 20);
  state.set_cpuid_digest("00112233445566778899aabbccddeeff");
  state.set_tsc_khz(2'000'000);
  state.set_kvmclock_ns(1'000'000'000);
  v1::KvmVcpuState& vcpu = *state.add_vcpus();
  vcpu.mutable_events()->resize(sizeof(kvm_vcpu_events));
  vcpu.mutable_regs()->resize(sizeof(kvm_regs));
  vcpu.mutable_sregs()->resize(sizeof(kvm_sregs2));
  vcpu.mutable_debug_regs()->resize(sizeof(kvm_debugregs));
  vcpu.mutable_xcrs()->resize(sizeof(kvm_xcrs));
  vcpu.mutable_xsave()->resize(kXsaveBytes);
  vcpu.mutable_lapic()->resize(sizeof(kvm_lapic_state));
  v1::KvmMsr& msr = *vcpu.add_msrs();
  msr.set_index(0x277);
  msr.set_value(0x0007040600070406);
  vcpu.set_tsc(2'000'000'000);
  v1::KvmChipState& chip = *state.mutable_chip();
  chip.mutable_pic_master()->resize(sizeof(kvm_pic_state));
  chip.mutable_pic_slave()->resize(sizeof(kvm_pic_state));
  chip.mutable_io_apic()->resize(sizeof(kvm_ioapic_state));
  chip.mutable_pit()->resize(sizeof(kvm_pit_state2));
  state.mutable_serial()->set_divisor_low(12);
  state.mutable_i8042()->set_system_control(1);
  for (int i = 0; i < 6; ++i) state.mutable_console_registers()->add_queues();
  for (int i = 0; i < 2; ++i) state.mutable_console()->add_ports();
  return state;
}

}  // namespace ktstr::kvm::tiny
