// CPU topologies that have a name.
#pragma once

#include <span>
#include <string_view>

#include "host/machine/topology.h"

namespace ktstr {

struct TopologyPreset {
  std::string_view name;  // "smt-2llc"
  std::uint32_t numa_nodes, llcs, cores_per_llc, threads_per_core;

  CpuTopology topology() const {
    return {.numa_nodes = numa_nodes,
            .llcs = llcs,
            .cores_per_llc = cores_per_llc,
            .threads_per_core = threads_per_core};
  }
};

// In the order in which they are listed: small to large, those with several nodes last.
std::span<const TopologyPreset> topology_presets();

}  // namespace ktstr
