// How a kvm machine uses the host's CPUs and memory, beyond the usual.
#pragma once

#include <cstdint>
#include <vector>

namespace ktstr {

// What guest RAM is made of.
enum class RamPages {
  kNormal,       // 4 KiB pages; the host may make large ones of them
  kTransparent,  // the host is asked for large ones: madvise(MADV_HUGEPAGE)
  kHuge,         // hugetlbfs pages of 2 MiB, which the host must have set aside
};

struct HostUse {
  RamPages pages = RamPages::kNormal;
  // The host CPU of each vCPU; empty: none is pinned. The guest of pinned vCPUs is told that they are not
  // preempted for long (KVM_HINTS_REALTIME), and its nodes' memory is taken from the host's nodes that their
  // CPUs are on.
  std::vector<std::uint32_t> vcpu_cpus = {};
  int fifo_priority = 0;  // of SCHED_FIFO for vCPUs' threads, 1 to 99; 0: the usual policy
  bool operator==(const HostUse&) const = default;
};

}  // namespace ktstr
