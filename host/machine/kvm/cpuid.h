// What CPUID says in a kvm guest: what the host's KVM supports, with the topology that was asked for written
// over it.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/machine/topology.h"

namespace ktstr::kvm {

struct CpuidOptions {
  // KVM_HINTS_REALTIME (leaf 0x40000001 EDX bit 0): vCPUs are never preempted for long. Only with pinned
  // vCPUs.
  bool realtime_hint = false;
  // Takes away the invariant TSC (0x80000007 EDX bit 8), so that the guest's clock is kvm-clock, which a
  // freeze can hold.
  bool mask_invariant_tsc = true;
};

// Leaves of one vCPU. `supported` is KVM_GET_SUPPORTED_CPUID's answer; `cpu` < topology.cpus(). Works for
// Intel, AMD and Hygon hosts by the vendor in leaf 0; for another vendor only leaves 1, 0xB and 0x1F are
// written.
std::vector<kvm_cpuid_entry2> make_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuTopology& topology, std::uint32_t cpu,
                                         const CpuidOptions& options);

}  // namespace ktstr::kvm
