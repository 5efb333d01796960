#include "host/machine/topology.h"

#include <bit>
#include <numeric>

#include <fmt/core.h>

namespace ktstr {
namespace {

constexpr std::uint32_t kMaxNodes = 64;
constexpr std::uint32_t kMaxCpus = 4096;
constexpr std::uint8_t kLocalDistance = 10;   // ACPI 6.5, 5.2.17
constexpr std::uint8_t kRemoteDistance = 20;  // what Linux takes for a remote node, REMOTE_DISTANCE

std::uint32_t field_width(std::uint32_t count) {
  return static_cast<std::uint32_t>(std::bit_width(count - 1));
}

Expected<void> check_counts(const CpuTopology& t) {
  if (t.numa_nodes == 0 || t.llcs == 0 || t.cores_per_llc == 0 || t.threads_per_core == 0) {
    return fail(ErrorCode::kUsage,
                "the topology has a zero in it: nodes, LLCs, cores and threads are at least 1");
  }
  if (t.numa_nodes > kMaxNodes) {
    return fail(ErrorCode::kUsage, fmt::format("{} NUMA nodes are more than the {} that a topology may have",
                                               t.numa_nodes, kMaxNodes));
  }
  // Each factor alone first, so that the product cannot wrap.
  const bool factor_too_large =
      t.llcs > kMaxCpus || t.cores_per_llc > kMaxCpus || t.threads_per_core > kMaxCpus;
  if (factor_too_large || std::uint64_t{t.llcs} * t.cores_per_llc * t.threads_per_core > kMaxCpus) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} x {} x {} vCPUs are more than the {} that a topology may have", t.llcs,
                            t.cores_per_llc, t.threads_per_core, kMaxCpus));
  }
  return {};
}

Expected<void> check_nodes(const CpuTopology& t) {
  if (t.nodes.empty()) {
    if (t.numa_nodes <= t.llcs) return {};
    return fail(
        ErrorCode::kUsage,
        fmt::format("{} NUMA nodes need at least as many LLCs, the topology has {}", t.numa_nodes, t.llcs));
  }
  if (t.nodes.size() != t.numa_nodes) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} nodes are described, the topology has {}", t.nodes.size(), t.numa_nodes));
  }
  std::uint64_t llcs = 0;
  for (const NumaNode& node : t.nodes) {
    llcs += node.llcs;
    if (node.latency_ns.has_value() != node.bandwidth_mbs.has_value())
      return fail(ErrorCode::kUsage, "a node's latency and bandwidth belong together: give both or none");
  }
  if (llcs != t.llcs) {
    return fail(ErrorCode::kUsage,
                fmt::format("the nodes have {} LLCs together, the topology {}", llcs, t.llcs));
  }
  return {};
}

Expected<void> check_distances(const CpuTopology& t) {
  if (t.distances.empty()) return {};
  const std::size_t nodes = t.numa_nodes;
  if (t.distances.size() != nodes * nodes) {
    return fail(ErrorCode::kUsage, fmt::format("the matrix of distances has {} numbers; {} nodes need {}",
                                               t.distances.size(), nodes, nodes * nodes));
  }
  for (std::size_t from = 0; from < nodes; ++from) {
    for (std::size_t to = 0; to < nodes; ++to) {
      const unsigned distance = t.distances[from * nodes + to];
      if (from == to ? distance != kLocalDistance : distance <= kLocalDistance || distance == 255) {
        return fail(ErrorCode::kUsage, fmt::format("the distance from node {} to node {} is {}: a node to "
                                                   "itself has {}, to another one 11 to 254",
                                                   from, to, distance, kLocalDistance));
      }
      if (distance != t.distances[to * nodes + from]) {
        return fail(ErrorCode::kUsage,
                    fmt::format("the distances of nodes {} and {} differ by direction: {} and {}", from, to,
                                distance, t.distances[to * nodes + from]));
      }
    }
  }
  return {};
}

}  // namespace

Expected<void> check_topology(const CpuTopology& topology) {
  if (auto ok = check_counts(topology); !ok) return ok;
  if (auto ok = check_nodes(topology); !ok) return ok;
  return check_distances(topology);
}

std::uint32_t first_llc(const CpuTopology& topology, std::uint32_t node) {
  // LLCs that nobody described are dealt out in order, as evenly as it goes.
  if (topology.nodes.empty()) return node * topology.llcs / topology.numa_nodes;
  return std::accumulate(topology.nodes.begin(), topology.nodes.begin() + node, std::uint32_t{0},
                         [](std::uint32_t sum, const NumaNode& one) { return sum + one.llcs; });
}

CpuPlace cpu_place(const CpuTopology& topology, std::uint32_t cpu) {
  CpuPlace place;
  place.thread = cpu % topology.threads_per_core;
  place.core = cpu / topology.threads_per_core % topology.cores_per_llc;
  place.llc = cpu / topology.threads_per_core / topology.cores_per_llc;
  while (first_llc(topology, place.node + 1) <= place.llc) ++place.node;
  return place;
}

std::uint32_t thread_bits(const CpuTopology& topology) {
  return field_width(topology.threads_per_core);
}

std::uint32_t core_bits(const CpuTopology& topology) {
  return field_width(topology.cores_per_llc);
}

std::uint32_t apic_id(const CpuTopology& topology, std::uint32_t cpu) {
  const CpuPlace place = cpu_place(topology, cpu);
  const std::uint32_t threads = thread_bits(topology);
  return place.llc << (core_bits(topology) + threads) | place.core << threads | place.thread;
}

std::uint32_t max_apic_id(const CpuTopology& topology) {
  return apic_id(topology, topology.cpus() - 1);
}

std::uint8_t node_distance(const CpuTopology& topology, std::uint32_t from, std::uint32_t to) {
  if (!topology.distances.empty()) return topology.distances[std::size_t{from} * topology.numa_nodes + to];
  return from == to ? kLocalDistance : kRemoteDistance;
}

bool wants_hmat(const CpuTopology& topology) {
  for (const NumaNode& node : topology.nodes)
    if (node.latency_ns || node.memory_side_cache_bytes != 0) return true;
  return false;
}

}  // namespace ktstr
