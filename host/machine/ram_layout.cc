#include "host/machine/ram_layout.h"

#include <algorithm>

#include <fmt/core.h>

#include "common/units.h"

namespace ktstr {

Expected<std::vector<std::uint64_t>> node_memory(const CpuTopology& topology, std::uint64_t memory_bytes) {
  std::vector<std::uint64_t> sizes(topology.numa_nodes, 0);
  std::uint64_t left = memory_bytes;
  std::uint32_t sharing = 0;
  for (std::uint32_t node = 0; node < topology.numa_nodes; ++node) {
    sizes[node] = topology.nodes.empty() ? 0 : topology.nodes[node].memory_bytes;
    if (sizes[node] == 0) ++sharing;
    if (sizes[node] > left) {
      return fail(ErrorCode::kUsage,
                  fmt::format("the nodes' memory is more than the machine's {}", format_size(memory_bytes)));
    }
    left -= sizes[node];
  }
  if (sharing == 0 && left != 0) {
    return fail(ErrorCode::kUsage, fmt::format("the nodes have {} of memory together, the machine has {}",
                                               format_size(memory_bytes - left), format_size(memory_bytes)));
  }
  if (sharing != 0 && left / kMiB < sharing) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} are left for {} nodes that do not say how much memory they have",
                            format_size(left), sharing));
  }
  const std::uint64_t share = sharing == 0 ? 0 : left / sharing / kMiB * kMiB;
  for (std::uint64_t& size : sizes) {
    if (size != 0) continue;
    size = --sharing == 0 ? left : share;
    left -= size;
  }
  return sizes;
}

std::vector<RamPiece> lay_out_ram(std::span<const std::uint64_t> node_bytes, std::uint64_t low_end) {
  std::vector<RamPiece> pieces;
  std::uint64_t position = 0;  // in all nodes' memory laid end to end
  for (std::uint32_t node = 0; node < node_bytes.size(); ++node) {
    std::uint64_t offset = 0;
    while (offset < node_bytes[node]) {
      const bool low = position < low_end;
      const std::uint64_t rest = node_bytes[node] - offset;
      const std::uint64_t size = low ? std::min(low_end - position, rest) : rest;
      const std::uint64_t gpa = low ? position : 4 * kGiB + (position - low_end);
      pieces.push_back({.gpa = gpa, .size = size, .node = node, .file_offset = offset});
      position += size;
      offset += size;
    }
  }
  return pieces;
}

}  // namespace ktstr
