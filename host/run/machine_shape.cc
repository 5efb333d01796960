#include "host/run/machine_shape.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "common/units.h"
#include "host/machine/ram_layout.h"
#include "host/run/topology_spec.h"

namespace ktstr {
namespace {

constexpr std::uint32_t kDefaultCpus = 2;

// Guest RAM: room for the kernel and the files (the archive and its unpacked copy), for each CPU's own data,
// and for the work itself. Schedulers with arenas and verifier runs need some 100 MiB.
constexpr std::uint64_t kLeastMemory = 512 * kMiB;
constexpr std::uint64_t kWorkMemory = 256 * kMiB;
constexpr std::uint64_t kMemoryPerCpu = 32 * kMiB;
constexpr std::uint64_t kMemoryStep = 64 * kMiB;

std::uint64_t rounded_up(std::uint64_t size, std::uint64_t step) {
  return (size + step - 1) / step * step;
}

// A number in the configuration; nothing where it does not say.
std::optional<std::uint64_t> number_of(const KernelConfig& config, std::string_view option) {
  const std::string_view text = config.lookup(option).text;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// What the nodes say of their memory.
struct NodeMemory {
  std::uint64_t sum = 0;
  std::uint64_t beside_cpus = 0;  // part of the sum: in nodes that have CPUs
  std::uint32_t silent = 0;       // nodes that name no size
};

NodeMemory said_memory(const CpuTopology& topology) {
  NodeMemory said;
  if (topology.nodes.empty()) said.silent = topology.numa_nodes;
  for (const NumaNode& node : topology.nodes) {
    said.sum += node.memory_bytes;
    if (node.llcs > 0) said.beside_cpus += node.memory_bytes;
    if (node.memory_bytes == 0) ++said.silent;
  }
  return said;
}

}  // namespace

Expected<CpuTopology> resolve_topology(const RunRequest& request) {
  if (!request.topology.empty()) return load_topology(request.topology);
  CpuTopology topology;
  topology.cores_per_llc = request.cpus.value_or(kDefaultCpus);
  return topology;
}

Expected<void> check_topology_limits(AccelChoice kind, const CpuTopology& topology) {
  BootSpec spec;
  spec.topology = topology;
  for (NumaNode& node : spec.topology.nodes) node.memory_bytes = 0;
  spec.memory_bytes = topology.numa_nodes * kLeastMemory;
  return check_limits(kind, spec);
}

Expected<void> check_topology_config(const CpuTopology& topology, const KernelConfig& config,
                                     const std::string& release, std::vector<std::string>& warnings) {
  const struct {
    bool wanted;
    const char* what;
    const char* option;
  } kOptions[] = {
      {topology.cpus() > 1, "more than one CPU", "CONFIG_SMP"},
      {topology.threads_per_core > 1, "several threads of a core", "CONFIG_SCHED_SMT"},
      {topology.llcs > 1, "several LLCs", "CONFIG_SCHED_MC"},
      {topology.numa_nodes > 1, "several NUMA nodes", "CONFIG_NUMA"},
      {topology.numa_nodes > 1, "several NUMA nodes", "CONFIG_X86_64_ACPI_NUMA"},
      {wants_hmat(topology), "latencies, bandwidths and caches of nodes", "CONFIG_ACPI_HMAT"},
  };
  for (const auto& [wanted, what, option] : kOptions) {
    if (!wanted || config.enabled(option)) continue;
    if (config.lookup(option).kind == ConfigValue::Kind::kAbsent && !config.complete()) {
      // One that runs with two CPUs says by itself that it has SMP; the rest is for PID 1 to find.
      if (option != kOptions[0].option)
        warnings.push_back(fmt::format("cannot tell whether kernel {} has {}: its configuration is {}",
                                       release, option, config.source()));
      continue;
    }
    return fail(
        ErrorCode::kKernelLacks,
        fmt::format("the topology has {}, which need {}; kernel {} does not have it (according to {})", what,
                    option, release, config.source()));
  }
  if (const auto most = number_of(config, "CONFIG_NR_CPUS"); most && *most < topology.cpus()) {
    return fail(ErrorCode::kKernelLacks, fmt::format("the topology has {} CPUs, kernel {} takes {} "
                                                     "(CONFIG_NR_CPUS, according to {})",
                                                     topology.cpus(), release, *most, config.source()));
  }
  const auto shift = number_of(config, "CONFIG_NODES_SHIFT");
  if (shift && *shift < 32 && (std::uint64_t{1} << *shift) < topology.numa_nodes) {
    return fail(
        ErrorCode::kKernelLacks,
        fmt::format("the topology has {} NUMA nodes, kernel {} takes {} (CONFIG_NODES_SHIFT={}, "
                    "according to {})",
                    topology.numa_nodes, release, std::uint64_t{1} << *shift, *shift, config.source()));
  }
  return {};
}

Expected<std::uint64_t> resolve_memory(const RunRequest& request, const CpuTopology& topology,
                                       const MemoryNeed& need) {
  const std::uint64_t least = need.kernel + 2 * need.files + 16 * kMiB;
  const NodeMemory said = said_memory(topology);
  if (!request.memory.empty()) {
    const auto size = parse_size(request.memory);
    if (!size) return propagate(Error(size.error()), "reading --memory");
    if (*size < least) {
      return fail(ErrorCode::kUsage, fmt::format("--memory {} is too little: kernel and files alone need {}",
                                                 request.memory, format_size(least)));
    }
    // Machines have whole pages; QEMU wants its memory file to be a multiple of 2 MiB with some backends.
    const std::uint64_t memory = rounded_up(*size, 2 * kMiB);
    if (const auto nodes = node_memory(topology, memory); !nodes)
      return propagate(Error(nodes.error()), fmt::format("--memory {} and --topology", request.memory));
    return memory;
  }
  const std::uint64_t enough = rounded_up(
      std::max(kLeastMemory, need.kernel + 3 * need.files + topology.cpus() * kMemoryPerCpu + kWorkMemory),
      kMemoryStep);
  if (said.silent > 0) {
    const std::uint64_t rest = enough > said.beside_cpus ? enough - said.beside_cpus : 0;
    return said.sum + rounded_up(std::max(rest, said.silent * kMemoryStep), kMemoryStep);
  }
  if (said.sum < least) {
    return fail(ErrorCode::kUsage,
                fmt::format("the topology's nodes have {} of memory together: kernel and files alone need {}",
                            format_size(said.sum), format_size(least)));
  }
  return said.sum;
}

}  // namespace ktstr
