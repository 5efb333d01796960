// Where guest RAM lies. A PC has a hole below 4 GiB for devices, APICs and firmware; what does not fit below
// it goes to 4 GiB and up.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/error.h"
#include "host/machine/topology.h"

namespace ktstr {

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// One contiguous piece of guest RAM and where its bytes are.
struct RamPiece {
  std::uint64_t gpa = 0;
  std::uint64_t size = 0;
  std::uint32_t node = 0;         // NUMA node, which is also the number of its backing memory
  std::uint64_t file_offset = 0;  // within that memory
  bool operator==(const RamPiece&) const = default;
};

// Bytes of each node's memory. Nodes that name a size get it; the others share the rest equally in whole MiB,
// the last of them takes what is left over. Error kUsage: the sizes exceed `memory_bytes`, or nothing is left
// for a node that named none, or all named one and the sum is another.
Expected<std::vector<std::uint64_t>> node_memory(const CpuTopology& topology, std::uint64_t memory_bytes);

// The nodes' memory laid end to end: below `low_end`, then from 4 GiB on; ascending by address.
std::vector<RamPiece> lay_out_ram(std::span<const std::uint64_t> node_bytes, std::uint64_t low_end);

}  // namespace ktstr
