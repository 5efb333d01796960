// What CPUID says in a kvm guest: what the host's KVM supports, with the topology that was asked for written
// over it. The essay is in cpuid.cc.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

#include "host/machine/topology.h"

namespace ktstr::kvm {

struct CpuidOptions {
  // KVM_HINTS_REALTIME (leaf 0x40000001 EDX bit 0): vCPUs are never preempted for long. Only with pinned
  // vCPUs.
  bool realtime_hint = false;
  // Takes away the invariant TSC (0x80000007 EDX bit 8), so that the guest's clock is kvm-clock, which a
  // freeze can hold.
  bool mask_invariant_tsc = true;
  // The local APIC's timer has TSC-deadline mode: KVM_CAP_TSC_DEADLINE_TIMER, with the local APIC in the
  // kernel. Set apart, because older KVMs do not have the bit in their list.
  bool tsc_deadline = true;
  // KVM_FEATURE_MSI_EXT_DEST_ID (leaf 0x40000001 EAX bit 15). Linux brings CPUs with APIC ids from 256 on up
  // only with it. It promises that MSIs and I/O APIC entries have bits 8 to 14 of the destination in MSI
  // address bits 5 to 11: only for a user-space I/O APIC (split irqchip) that passes them on.
  bool msi_ext_dest_id = false;
};

// Leaves of one vCPU. `supported` is KVM_GET_SUPPORTED_CPUID's answer; `cpu` < topology.cpus(). AMD and Hygon
// are told by the vendor in leaf 0; every other vendor has caches in leaf 4, as Intel.
//
// Limit: where an LLC takes more than 12 bits of the APIC id, the cache leaves cannot say so (their field
// ends at 4096 ids) and the guest sees smaller LLCs.
std::vector<kvm_cpuid_entry2> make_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuTopology& topology, std::uint32_t cpu,
                                         const CpuidOptions& options);

}  // namespace ktstr::kvm
