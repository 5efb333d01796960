// The CPU and memory topology of a machine, and the numbers that follow from it.
//
// CPUs are numbered node by node, LLC by LLC, core by core, thread by thread: the threads of a core have
// neighbouring numbers. LLCs are dealt out to the nodes in order. A node may have no LLC at all: memory
// behind a device (CXL), which has no CPUs of its own.
//
// An APIC id is a bit field, so that software can find a CPU's core and LLC by shifting (Intel SDM vol.
// 3A, 9.9.1 "Hierarchical Mapping of Shared Resources"): LLC, core, thread, each as wide as the largest
// number needs; 3 cores take the room of 4.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/error.h"

namespace ktstr {

// One NUMA node.
struct NumaNode {
  std::uint32_t llcs = 0;          // 0: a memory-only node
  std::uint64_t memory_bytes = 0;  // 0: an equal share of what the nodes with a size leave
  // For the HMAT (ACPI 6.5, 5.2.28): from a CPU of the nearest node with CPUs to this memory. Either both or
  // none.
  std::optional<std::uint32_t> latency_ns;
  std::optional<std::uint32_t> bandwidth_mbs;  // MB/s
  std::uint64_t memory_side_cache_bytes = 0;   // of a cache in front of this memory, for the HMAT; 0: none
  bool operator==(const NumaNode&) const = default;
};

// CPU topology asked for: CPUs = llcs * cores_per_llc * threads_per_core; llcs counts all nodes together.
struct CpuTopology {
  std::uint32_t numa_nodes = 1;
  std::uint32_t llcs = 1;
  std::uint32_t cores_per_llc = 1;
  std::uint32_t threads_per_core = 1;
  // Empty, or one for each node, whose LLCs add up to `llcs`. Empty: the LLCs are dealt out evenly, equal
  // memory.
  std::vector<NumaNode> nodes = {};
  // Empty, or the matrix of distances row by row, numa_nodes * numa_nodes (ACPI 6.5, 5.2.17 SLIT): symmetric,
  // 10 on the diagonal, 11 to 254 elsewhere. Empty: 20 elsewhere.
  std::vector<std::uint8_t> distances = {};

  std::uint32_t cpus() const { return llcs * cores_per_llc * threads_per_core; }
  bool operator==(const CpuTopology&) const = default;
};

// Where a CPU is. llc counts over all nodes; core and thread within their parent.
struct CpuPlace {
  std::uint32_t node = 0, llc = 0, core = 0, thread = 0;
  bool operator==(const CpuPlace&) const = default;
};

// Whether the topology makes sense in itself, whatever the machine: no zero, nodes and distances as described
// above, at most 64 nodes and 4096 CPUs. Error kUsage saying what would be right.
Expected<void> check_topology(const CpuTopology& topology);

// The rest takes a topology that passed check_topology.

// `cpu` < topology.cpus().
CpuPlace cpu_place(const CpuTopology& topology, std::uint32_t cpu);
// Number of the first LLC of `node`; node == numa_nodes gives the number of all LLCs.
std::uint32_t first_llc(const CpuTopology& topology, std::uint32_t node);
std::uint32_t apic_id(const CpuTopology& topology, std::uint32_t cpu);
std::uint32_t max_apic_id(const CpuTopology& topology);
// Width of the fields of an APIC id, bits; 0 where there is only one.
std::uint32_t thread_bits(const CpuTopology& topology);
std::uint32_t core_bits(const CpuTopology& topology);
// As the SLIT has it.
std::uint8_t node_distance(const CpuTopology& topology, std::uint32_t from, std::uint32_t to);
// Whether any node has its latency and bandwidth given, or a memory-side cache.
bool wants_hmat(const CpuTopology& topology);

}  // namespace ktstr
