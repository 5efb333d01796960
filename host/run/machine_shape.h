// How many CPUs and nodes a run's machine has, how much memory, and whether the kernel can see them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/kernel/kernel_config.h"
#include "host/machine/create.h"
#include "host/run/run_request.h"

namespace ktstr {

// --topology, --cpus, or the default of two CPUs. Errors: kUsage.
Expected<CpuTopology> resolve_topology(const RunRequest& request);

// Whether a machine of this kind can have this topology, whatever the size of its memory: that is decided
// later, when the files are known. Errors as check_limits().
Expected<void> check_topology_limits(AccelChoice kind, const CpuTopology& topology);

// Whether the kernel has what it needs to see the topology (NUMA, SMT, LLCs, numbers of CPUs and nodes). An
// option that a derived configuration does not mention is taken to be there, and a warning says so. Error
// kKernelLacks.
Expected<void> check_topology_config(const CpuTopology& topology, const KernelConfig& config,
                                     const std::string& release, std::vector<std::string>& warnings);

// What needs memory.
struct MemoryNeed {
  std::uint64_t kernel = 0;  // bytes from the kernel's start to the end of its .bss
  std::uint64_t files = 0;   // of the initramfs, bytes
};

// Guest RAM in bytes: --memory; or what the topology's nodes have, if each of them says; or enough. Errors:
// kUsage for too little, and for nodes that do not fit into --memory.
Expected<std::uint64_t> resolve_memory(const RunRequest& request, const CpuTopology& topology,
                                       const MemoryNeed& need);

}  // namespace ktstr
