#include "host/machine/kvm/acpi/hmat.h"

#include <algorithm>

#include "host/machine/kvm/acpi/table_writer.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint8_t kRevision = 2;

constexpr std::uint16_t kDomainAttributes = 0;  // structure types
constexpr std::uint16_t kLocality = 1;
constexpr std::uint16_t kMemorySideCache = 2;
constexpr std::uint32_t kDomainAttributesSize = 40;
constexpr std::uint32_t kLocalityHeaderSize = 32;
constexpr std::uint32_t kMemorySideCacheSize = 32;

// The only level of one, direct mapped, writes back, lines of 64 bytes.
constexpr std::uint32_t kCacheAttributes = 1U | 1U << 4 | 1U << 8 | 1U << 12 | 64U << 16;

constexpr std::uint16_t kInitiatorValid = 1;
constexpr std::uint8_t kMemory = 0;  // hierarchy: memory, not a memory-side cache
constexpr std::uint8_t kAccessLatency = 0;
constexpr std::uint8_t kAccessBandwidth = 3;

constexpr std::uint64_t kLargestEntry = 0xfffe;
constexpr std::uint64_t kPicosecondsPerNanosecond = 1000;

struct Domains {
  std::vector<std::uint32_t> initiators;
  std::vector<std::uint32_t> targets;
};

bool has_cpus(const CpuTopology& topology, std::uint32_t node) {
  return first_llc(topology, node) != first_llc(topology, node + 1);
}

Domains find_domains(const CpuTopology& topology, std::span<const RamPiece> ram) {
  Domains domains;
  for (std::uint32_t node = 0; node < topology.numa_nodes; ++node) {
    if (has_cpus(topology, node)) domains.initiators.push_back(node);
    // Linux refuses a domain that the SRAT has no memory for (hmat_parse_proximity_domain).
    if (std::ranges::any_of(ram, [node](const RamPiece& piece) { return piece.node == node; }))
      domains.targets.push_back(node);
  }
  return domains;
}

std::uint64_t nearest_latency_ns(const CpuTopology& topology, std::uint32_t node) {
  if (topology.nodes[node].latency_ns) return std::max(*topology.nodes[node].latency_ns, 1U);
  return has_cpus(topology, node) ? kDramLatencyNs : kCxlLatencyNs;
}

std::uint64_t nearest_bandwidth_mbs(const CpuTopology& topology, std::uint32_t node) {
  if (topology.nodes[node].bandwidth_mbs) return std::max(*topology.nodes[node].bandwidth_mbs, 1U);
  return has_cpus(topology, node) ? kDramBandwidthMbs : kCxlBandwidthMbs;
}

std::uint64_t rounded_ratio(std::uint64_t value, std::uint64_t by, std::uint64_t over) {
  return std::max<std::uint64_t>((value * by + over / 2) / over, 1);
}

// The matrix of `type`; `values` row by row, in `unit`s of the table.
void add_locality(TableWriter& hmat, std::uint8_t type, const Domains& domains,
                  const std::vector<std::uint64_t>& values, std::uint64_t unit) {
  const std::uint64_t largest = *std::ranges::max_element(values);
  const std::uint64_t step = (largest + kLargestEntry - 1) / kLargestEntry;
  const std::size_t size =
      kLocalityHeaderSize + 4 * (domains.initiators.size() + domains.targets.size()) + 2 * values.size();
  hmat.u16(kLocality).u16(0).u32(static_cast<std::uint32_t>(size));
  hmat.u8(kMemory).u8(type).u8(0).u8(0);  // no minimum transfer size
  hmat.u32(static_cast<std::uint32_t>(domains.initiators.size()));
  hmat.u32(static_cast<std::uint32_t>(domains.targets.size()));
  hmat.u32(0).u64(step * unit);
  for (const std::uint32_t node : domains.initiators) hmat.u32(node);
  for (const std::uint32_t node : domains.targets) hmat.u32(node);
  for (const std::uint64_t value : values)
    hmat.u16(static_cast<std::uint16_t>(rounded_ratio(value, 1, step)));
}

}  // namespace

std::uint32_t nearest_cpu_node(const CpuTopology& topology, std::uint32_t node) {
  std::uint32_t nearest = topology.numa_nodes;
  for (std::uint32_t other = 0; other < topology.numa_nodes; ++other) {
    if (!has_cpus(topology, other)) continue;
    if (nearest == topology.numa_nodes ||
        node_distance(topology, other, node) < node_distance(topology, nearest, node)) {
      nearest = other;
    }
  }
  return nearest;
}

std::vector<std::byte> make_hmat(const CpuTopology& topology, std::span<const RamPiece> ram) {
  const Domains domains = find_domains(topology, ram);
  TableWriter hmat("HMAT", kRevision);
  hmat.u32(0);
  for (const std::uint32_t node : domains.targets) {
    hmat.u16(kDomainAttributes).u16(0).u32(kDomainAttributesSize).u16(kInitiatorValid).u16(0);
    hmat.u32(nearest_cpu_node(topology, node)).u32(node).zeros(20);
  }
  std::vector<std::uint64_t> latencies, bandwidths;
  for (const std::uint32_t from : domains.initiators) {
    for (const std::uint32_t to : domains.targets) {
      const std::uint64_t distance = node_distance(topology, from, to);
      const std::uint64_t nearest = node_distance(topology, nearest_cpu_node(topology, to), to);
      latencies.push_back(rounded_ratio(nearest_latency_ns(topology, to), distance, nearest));
      bandwidths.push_back(rounded_ratio(nearest_bandwidth_mbs(topology, to), nearest, distance));
    }
  }
  if (!latencies.empty()) {
    add_locality(hmat, kAccessLatency, domains, latencies, kPicosecondsPerNanosecond);
    add_locality(hmat, kAccessBandwidth, domains, bandwidths, 1);
  }
  for (const std::uint32_t node : domains.targets) {
    const std::uint64_t size = topology.nodes[node].memory_side_cache_bytes;
    if (size == 0) continue;
    hmat.u16(kMemorySideCache).u16(0).u32(kMemorySideCacheSize).u32(node).u32(0);
    hmat.u64(size).u32(kCacheAttributes).u16(0).u16(0);  // no SMBIOS handles
  }
  return std::move(hmat).finish();
}

}  // namespace ktstr::kvm
