#include "host/machine/tcg/pc_memory.h"

#include <bit>

#include <fmt/core.h>

#include "common/units.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kSplitFrom = 0xe0000000;  // 3.5 GiB
constexpr std::uint64_t kLowEnd = 3 * kGiB;
constexpr std::uint64_t kHighStart = 4 * kGiB;
// The pc machine's max_cpus; APIC id 255 is the broadcast address.
constexpr std::uint64_t kMaxCpus = 255;
constexpr std::uint64_t kMaxApicId = 254;

unsigned field_width(std::uint32_t count) {
  return static_cast<unsigned>(std::bit_width(count - 1));
}

Expected<void> check_topology(const CpuTopology& topology) {
  const CpuTopology& t = topology;
  if (t.numa_nodes == 0 || t.llcs == 0 || t.cores_per_llc == 0 || t.threads_per_core == 0) {
    return fail(ErrorCode::kUsage,
                "the topology has a zero in it: nodes, LLCs, cores and threads are at least 1");
  }
  if (t.numa_nodes > t.llcs) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("{} NUMA nodes need at least as many LLCs, the topology has {}", t.numa_nodes, t.llcs));
  }
  // Each factor alone first, so that the product cannot wrap.
  const bool factor_too_large =
      t.llcs > kMaxCpus || t.cores_per_llc > kMaxCpus || t.threads_per_core > kMaxCpus;
  const std::uint64_t cpus =
      factor_too_large ? kMaxCpus + 1 : std::uint64_t{t.llcs} * t.cores_per_llc * t.threads_per_core;
  if (cpus > kMaxCpus) {
    return fail(ErrorCode::kHost,
                fmt::format("{} x {} x {} vCPUs are more than the {} that the tcg machine can have", t.llcs,
                            t.cores_per_llc, t.threads_per_core, kMaxCpus));
  }
  const unsigned thread_bits = field_width(t.threads_per_core);
  const unsigned core_bits = field_width(t.cores_per_llc);
  const std::uint64_t last_id = (std::uint64_t{t.llcs - 1} << (core_bits + thread_bits)) |
                                (std::uint64_t{t.cores_per_llc - 1} << thread_bits) |
                                (t.threads_per_core - 1);
  if (last_id > kMaxApicId) {
    return fail(
        ErrorCode::kHost,
        fmt::format(
            "the topology needs APIC id {}, the tcg machine has ids up to {}: cores and threads of an "
            "LLC count as the next power of two",
            last_id, kMaxApicId));
  }
  return {};
}

}  // namespace

std::vector<std::uint64_t> node_memory(std::uint64_t memory_bytes, std::uint32_t nodes) {
  const std::uint64_t share = memory_bytes / nodes / kMiB * kMiB;
  std::vector<std::uint64_t> result(nodes, share);
  result.back() = memory_bytes - share * (nodes - 1);
  return result;
}

std::vector<RamPiece> pc_ram_layout(std::span<const std::uint64_t> node_bytes) {
  std::uint64_t total = 0;
  for (const std::uint64_t bytes : node_bytes) total += bytes;
  const std::uint64_t low_end = total >= kSplitFrom ? kLowEnd : total;

  std::vector<RamPiece> pieces;
  std::uint64_t position = 0;  // in all nodes' memory laid end to end
  for (std::uint32_t node = 0; node < node_bytes.size(); ++node) {
    std::uint64_t offset = 0;
    while (offset < node_bytes[node]) {
      const bool low = position < low_end;
      const std::uint64_t room = low ? low_end - position : total - position;
      const std::uint64_t size = std::min(room, node_bytes[node] - offset);
      const std::uint64_t gpa = low ? position : kHighStart + (position - low_end);
      pieces.push_back({.gpa = gpa, .size = size, .node = node, .file_offset = offset});
      position += size;
      offset += size;
    }
  }
  return pieces;
}

Expected<void> check_pc_limits(const BootSpec& spec) {
  if (auto ok = check_topology(spec.topology); !ok) return ok;
  const std::uint64_t memory = spec.memory_bytes;
  if (memory < kMinTcgMemory || memory / kMiB < spec.topology.numa_nodes) {
    return fail(ErrorCode::kUsage, fmt::format("{} of memory are too little: the least is {}",
                                               format_size(memory), format_size(kMinTcgMemory)));
  }
  if (memory % kMiB != 0) {
    return fail(ErrorCode::kUsage, fmt::format("memory must be a whole number of MiB, not {} bytes", memory));
  }
  if (memory > kMaxTcgMemory) {
    return fail(ErrorCode::kHost,
                fmt::format("{} of memory are more than the {} that the tcg machine can have",
                            format_size(memory), format_size(kMaxTcgMemory)));
  }
  return {};
}

}  // namespace ktstr
