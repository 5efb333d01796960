// HMAT: how fast each node's memory is from each node with CPUs (ACPI 6.5, 5.2.28).
//
// Structures of three kinds. The attributes of a memory domain name the initiator that the memory is attached
// to: the nearest node with CPUs. Two matrices, initiators by targets, have latencies in units of picoseconds
// and bandwidths in units of MB/s, 16 bits each; the unit is one number for a whole matrix, chosen so that
// the largest value fits (0xffff means "cannot be reached"). Linux multiplies in 32 bits (hmat_normalize):
// more than 4,294,967 ns or 4,294,967,295 MB/s cannot be told.
//
// A cache in front of a node's memory has a structure of its own.
//
// A node's latency and bandwidth are those from the nearest CPUs. From others the latency grows with the SLIT
// distance and the bandwidth falls with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "host/machine/ram_layout.h"
#include "host/machine/topology.h"

namespace ktstr::kvm {

// What a node has that does not say: plain DRAM, or memory behind a CXL link.
inline constexpr std::uint32_t kDramLatencyNs = 100;
inline constexpr std::uint32_t kDramBandwidthMbs = 51200;
inline constexpr std::uint32_t kCxlLatencyNs = 300;
inline constexpr std::uint32_t kCxlBandwidthMbs = 20480;

// The node with CPUs that is nearest to `node` by distance, the lowest of several; the node itself if it has
// CPUs.
std::uint32_t nearest_cpu_node(const CpuTopology& topology, std::uint32_t node);

std::vector<std::byte> make_hmat(const CpuTopology& topology, std::span<const RamPiece> ram);

}  // namespace ktstr::kvm
