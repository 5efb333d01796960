#include "host/machine/tcg/pc_memory.h"

#include <numeric>

#include <fmt/core.h>

#include "common/units.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kSplitFrom = 0xe0000000;  // 3.5 GiB
constexpr std::uint64_t kLowEnd = 3 * kGiB;
// The pc machine's max_cpus; APIC id 255 is the broadcast address.
constexpr std::uint64_t kMaxCpus = 255;
constexpr std::uint64_t kMaxApicId = 254;

// QEMU's SRAT names the CPUs' nodes first, and Linux numbers nodes in the order in which it reads of them.
Expected<void> check_pc_nodes(const CpuTopology& t) {
  if (wants_hmat(t)) {
    return fail(ErrorCode::kHost,
                "the tcg machine has no HMAT: latency_ns, bandwidth_mbs and memory_side_cache of a node need "
                "--accel kvm");
  }
  for (std::uint32_t node = 1; node < t.numa_nodes; ++node) {
    const bool before_memory_only = first_llc(t, node - 1) == first_llc(t, node);
    if (before_memory_only && first_llc(t, node) != first_llc(t, node + 1)) {
      return fail(ErrorCode::kHost,
                  fmt::format("node {} has CPUs and node {} has none: on the tcg machine memory-only nodes "
                              "come last",
                              node, node - 1));
    }
  }
  return {};
}

Expected<void> check_pc_topology(const CpuTopology& t) {
  if (auto ok = check_topology(t); !ok) return ok;
  if (auto ok = check_pc_nodes(t); !ok) return ok;
  if (t.cpus() > kMaxCpus) {
    return fail(ErrorCode::kHost,
                fmt::format("{} x {} x {} vCPUs are more than the {} that the tcg machine can have", t.llcs,
                            t.cores_per_llc, t.threads_per_core, kMaxCpus));
  }
  if (max_apic_id(t) > kMaxApicId) {
    return fail(
        ErrorCode::kHost,
        fmt::format(
            "the topology needs APIC id {}, the tcg machine has ids up to {}: cores and threads of an "
            "LLC count as the next power of two",
            max_apic_id(t), kMaxApicId));
  }
  return {};
}

}  // namespace

std::vector<RamPiece> pc_ram_layout(std::span<const std::uint64_t> node_bytes) {
  const std::uint64_t total = std::accumulate(node_bytes.begin(), node_bytes.end(), std::uint64_t{0});
  return lay_out_ram(node_bytes, total >= kSplitFrom ? kLowEnd : total);
}

Expected<void> check_pc_limits(const BootSpec& spec) {
  if (auto ok = check_pc_topology(spec.topology); !ok) return ok;
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
  if (auto sizes = node_memory(spec.topology, memory); !sizes) return std::unexpected(sizes.error());
  return {};
}

}  // namespace ktstr
