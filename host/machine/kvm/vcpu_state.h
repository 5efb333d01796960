// The state of a vCPU, out of KVM and into it again; vcpu_state.cc explains the order. Both with the vCPU
// parked, and without its clock: that is GuestClock's.
#pragma once

#include "common/error.h"
#include "host/machine/kvm/vcpu.h"
#include "host/machine/kvm/vm.h"

namespace ktstr::v1 {
class KvmVcpuState;
}

namespace ktstr::kvm {

// Error kHost: KVM does not give something, or the guest runs a hypervisor itself, whose guests are not
// saved.
Expected<void> save_vcpu(const Vm& vm, const Vcpu& vcpu, v1::KvmVcpuState& to);

// Into a vCPU that has its CPUID and has never run; the guest's RAM is loaded. `from` is one that
// parse_kvm_state() has taken. Error kHost: KVM does not take something.
Expected<void> load_vcpu(const Vm& vm, Vcpu& vcpu, const v1::KvmVcpuState& from);

}  // namespace ktstr::kvm
