// VcpuStatistics: KVM's own counters of one vCPU, through a descriptor of KVM_GET_STATS_FD.
//
// The file describes itself (api.rst 4.133): a header, a name for the vCPU, a descriptor for each counter
// (name, kind, unit, place), the values. Kernels differ in which counters they have, so they are taken by
// name, and whatever kind is not known is left out. Reading does not need vcpu->mutex, so it works while the
// vCPU runs, also one that never leaves the guest; opening does need it, hence it is done before the first
// KVM_RUN.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/machine/machine.h"

namespace ktstr::kvm {

class VcpuStatistics {
 public:
  // No statistics where the host has none (KVM_CAP_BINARY_STATS_FD) or no descriptor is left: read() is empty
  // then.
  explicit VcpuStatistics(int vcpu);

  // Counters of single values that are not 0, in the kernel's order. Any thread.
  std::vector<MachineStatistics::Counter> read() const;

 private:
  UniqueFd fd_;
};

// The same out of the bytes of such a file. Sums that only grow, in plain numbers or nanoseconds; histograms,
// high water marks, momentary values and those of other units are left out. Error kHost when the bytes
// contradict themselves.
Expected<std::vector<MachineStatistics::Counter>> parse_statistics(std::span<const std::byte> file);

}  // namespace ktstr::kvm
