#include "host/run/topology_file.h"

#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <google/protobuf/text_format.h>

#include "common/quote.h"
#include "common/units.h"
#include "host/run/message_file.h"

namespace ktstr {
namespace {

constexpr std::uint32_t kMaxPerLevel = 4096;  // topology.h: CPUs
constexpr int kMaxNodes = 64;                 // topology.h
// What Linux multiplies with in 32 bits (drivers/acpi/numa/hmat.c, hmat_normalize).
constexpr std::uint32_t kMaxLatencyNs = 4294967;
constexpr std::uint32_t kLocalDistance = 10, kMaxDistance = 254;
constexpr std::uint64_t kMemoryStep = std::uint64_t{2} << 20;  // a large page
constexpr std::uint64_t kLeastCache = std::uint64_t{64} << 10;
constexpr std::uint64_t kLeastMemory = std::uint64_t{16} << 20;
constexpr std::uint64_t kMostMemory = std::uint64_t{16} << 40;  // the sum over all nodes cannot wrap

// The topology of a file while it is being read; the first thing that is wrong ends it.
class Reader {
 public:
  Reader(const MessageFile& file, const ktstr::v1::Topology& message) : file_(file), message_(message) {}

  Expected<CpuTopology> read() {
    if (auto ok = read_counts(); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = read_nodes(); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = read_distances(); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = check_topology(topology_); !ok) return wrong("", ok.error().message(), "");
    return std::move(topology_);
  }

 private:
  std::unexpected<Error> wrong(std::string_view path, std::string message, std::string hint) const {
    return std::unexpected(file_.complain(path, std::move(message), std::move(hint)));
  }

  Expected<void> check_count(std::string_view path, std::uint32_t value) const {
    if (value >= 1 && value <= kMaxPerLevel) return {};
    return wrong(path, fmt::format("{} must be from 1 to {}, not {}", path, kMaxPerLevel, value), "");
  }

  Expected<void> read_counts() {
    const auto take = [this](std::string_view path, bool given, std::uint32_t value, std::uint32_t& into) {
      if (!given) return Expected<void>();
      into = value;
      return check_count(path, value);
    };
    const auto& m = message_;
    for (const auto& taken :
         {take("numa_nodes", m.has_numa_nodes(), m.numa_nodes(), topology_.numa_nodes),
          take("llcs", m.has_llcs(), m.llcs(), topology_.llcs),
          take("cores_per_llc", m.has_cores_per_llc(), m.cores_per_llc(), topology_.cores_per_llc),
          take("threads_per_core", m.has_threads_per_core(), m.threads_per_core(),
               topology_.threads_per_core)}) {
      if (!taken) return taken;
    }
    if (m.nodes_size() == 0 && topology_.llcs % topology_.numa_nodes != 0) {
      return wrong(
          m.has_llcs() ? "llcs" : "numa_nodes",
          fmt::format("{} LLCs cannot be dealt out evenly to {} nodes", topology_.llcs, topology_.numa_nodes),
          "llcs is the total over all nodes; 'nodes { llcs: N }' says how many each one has");
    }
    return {};
  }

  Expected<void> read_nodes() {
    const int nodes = message_.nodes_size();
    if (nodes == 0) return {};
    if (nodes > kMaxNodes)
      return wrong(fmt::format("nodes[{}]", kMaxNodes), fmt::format("{} nodes are too many", nodes),
                   fmt::format("a topology has at most {}", kMaxNodes));
    if (message_.has_numa_nodes() && topology_.numa_nodes != static_cast<std::uint32_t>(nodes)) {
      return wrong("numa_nodes",
                   fmt::format("numa_nodes is {}, but {} are described", topology_.numa_nodes, nodes),
                   "leave numa_nodes out where there are 'nodes'");
    }
    topology_.numa_nodes = static_cast<std::uint32_t>(nodes);
    std::uint32_t llcs = 0;
    for (int i = 0; i < nodes; ++i) {
      auto node = read_node(i);
      if (!node) return std::unexpected(std::move(node.error()));
      llcs += node->llcs;
      topology_.nodes.push_back(*node);
    }
    if (message_.has_llcs() && topology_.llcs != llcs) {
      return wrong("llcs", fmt::format("llcs is {}, but the nodes have {} together", topology_.llcs, llcs),
                   "leave llcs out where there are 'nodes'");
    }
    topology_.llcs = llcs;
    return {};
  }

  Expected<NumaNode> read_node(int index) const {
    const auto& message = message_.nodes(index);
    const std::string path = fmt::format("nodes[{}]", index);
    NumaNode node;
    node.llcs = message.has_llcs() ? message.llcs() : 1;
    if (node.llcs > kMaxPerLevel)
      return wrong(path + ".llcs", fmt::format("a node has at most {} LLCs, not {}", kMaxPerLevel, node.llcs),
                   "");
    if (index == 0 && node.llcs == 0) {
      return wrong(path + ".llcs", "the first node has no CPUs",
                   "the kernel starts in node 0: put memory-only nodes behind it");
    }
    if (!message.memory().empty()) {
      auto size = read_memory(path + ".memory", message.memory());
      if (!size) return std::unexpected(std::move(size.error()));
      node.memory_bytes = *size;
    }
    if (message.has_latency_ns() != message.has_bandwidth_mbs()) {
      return wrong(path, "latency_ns and bandwidth_mbs belong together", "give both or none");
    }
    if (message.has_latency_ns()) {
      if (message.latency_ns() < 1 || message.latency_ns() > kMaxLatencyNs)
        return wrong(
            path + ".latency_ns",
            fmt::format("latency_ns must be from 1 to {}, not {}", kMaxLatencyNs, message.latency_ns()), "");
      if (message.bandwidth_mbs() == 0)
        return wrong(path + ".bandwidth_mbs", "bandwidth_mbs must be at least 1", "");
      node.latency_ns = message.latency_ns();
      node.bandwidth_mbs = message.bandwidth_mbs();
    }
    if (!message.memory_side_cache().empty()) {
      auto size = read_cache(path + ".memory_side_cache", message.memory_side_cache());
      if (!size) return std::unexpected(std::move(size.error()));
      node.memory_side_cache_bytes = *size;
    }
    return node;
  }

  Expected<std::uint64_t> read_cache(const std::string& path, const std::string& text) const {
    const auto size = parse_size(text);
    if (!size) return wrong(path, size.error().message(), "a size with a unit, e.g. \"256M\"");
    if (*size < kLeastCache || *size > kMostMemory)
      return wrong(path, fmt::format("a memory-side cache cannot have {}", quote(text)),
                   fmt::format("from {} to {}", format_size(kLeastCache), format_size(kMostMemory)));
    return *size;
  }

  Expected<std::uint64_t> read_memory(const std::string& path, const std::string& text) const {
    const auto size = parse_size(text);
    if (!size) return wrong(path, size.error().message(), "a size with a unit, e.g. \"512M\"");
    if (*size % kMemoryStep != 0 || *size < kLeastMemory || *size > kMostMemory) {
      return wrong(path, fmt::format("a node cannot have {} of memory", quote(text)),
                   fmt::format("from {} to {}, in steps of {}", format_size(kLeastMemory),
                               format_size(kMostMemory), format_size(kMemoryStep)));
    }
    return *size;
  }

  Expected<void> read_distances() {
    if (message_.distances_size() == 0) return {};
    const auto nodes = static_cast<int>(topology_.numa_nodes);
    if (message_.distances_size() != nodes) {
      return wrong(
          "distances[0]",
          fmt::format("there are {} rows of distances for {} nodes", message_.distances_size(), nodes),
          "one 'distances { to: [...] }' for each node");
    }
    for (int from = 0; from < nodes; ++from) {
      const auto& row = message_.distances(from).to();
      const std::string path = fmt::format("distances[{}]", from);
      if (row.size() != nodes) {
        return wrong(path,
                     fmt::format("node {} has {} distances, there are {} nodes", from, row.size(), nodes),
                     "one number for each node, its own (10) among them");
      }
      for (int to = 0; to < nodes; ++to) {
        if (auto ok = check_distance(from, to); !ok) return ok;
        topology_.distances.push_back(static_cast<std::uint8_t>(row[to]));
      }
    }
    return {};
  }

  // The rows before `from`, and the row itself, have a number for each node.
  Expected<void> check_distance(int from, int to) const {
    const std::uint32_t distance = message_.distances(from).to(to);
    const std::string path = fmt::format("distances[{}].to[{}]", from, to);
    if (from == to && distance != kLocalDistance) {
      return wrong(path, fmt::format("node {} has distance {} to itself", from, distance),
                   fmt::format("a node's distance to itself is {}", kLocalDistance));
    }
    if (from != to && (distance <= kLocalDistance || distance > kMaxDistance)) {
      return wrong(path, fmt::format("the distance from node {} to node {} is {}", from, to, distance),
                   fmt::format("{} to {}", kLocalDistance + 1, kMaxDistance));
    }
    if (to < from && message_.distances(to).to(from) != distance) {
      return wrong(path,
                   fmt::format("the distance from node {} to node {} is {}, the way back {}", from, to,
                               distance, message_.distances(to).to(from)),
                   "distances are the same in both directions");
    }
    return {};
  }

  const MessageFile& file_;
  const ktstr::v1::Topology& message_;
  CpuTopology topology_;
};

// The largest unit that divides it: parse_size() turns it back.
std::string exact_size(std::uint64_t bytes) {
  constexpr std::uint64_t kKiB = 1024;
  if (bytes % (kKiB * kKiB * kKiB) == 0) return fmt::format("{}G", bytes / (kKiB * kKiB * kKiB));
  if (bytes % (kKiB * kKiB) == 0) return fmt::format("{}M", bytes / (kKiB * kKiB));
  return fmt::format("{}", bytes);
}

ktstr::v1::Topology message_of(const CpuTopology& topology) {
  ktstr::v1::Topology message;
  message.set_numa_nodes(topology.numa_nodes);
  message.set_llcs(topology.llcs);
  message.set_cores_per_llc(topology.cores_per_llc);
  message.set_threads_per_core(topology.threads_per_core);
  for (const NumaNode& node : topology.nodes) {
    auto& described = *message.add_nodes();
    described.set_llcs(node.llcs);
    if (node.memory_bytes != 0) described.set_memory(exact_size(node.memory_bytes));
    if (node.latency_ns) described.set_latency_ns(*node.latency_ns);
    if (node.bandwidth_mbs) described.set_bandwidth_mbs(*node.bandwidth_mbs);
    if (node.memory_side_cache_bytes != 0)
      described.set_memory_side_cache(exact_size(node.memory_side_cache_bytes));
  }
  for (std::size_t i = 0; i < topology.distances.size(); ++i) {
    if (i % topology.numa_nodes == 0) message.add_distances();
    message.mutable_distances(message.distances_size() - 1)->add_to(topology.distances[i]);
  }
  return message;
}

}  // namespace

Expected<CpuTopology> parse_topology_file(SourceText source) {
  ktstr::v1::Topology message;
  const auto file = MessageFile::parse(std::move(source), message);
  if (!file) return std::unexpected(file.error());
  return Reader(*file, message).read();
}

ktstr::v1::Topology whole_topology(const CpuTopology& topology, std::span<const std::uint64_t> node_bytes) {
  CpuTopology whole = topology;
  whole.nodes.resize(topology.numa_nodes);
  for (std::uint32_t node = 0; node < topology.numa_nodes; ++node) {
    whole.nodes[node].llcs = first_llc(topology, node + 1) - first_llc(topology, node);
    whole.nodes[node].memory_bytes = node_bytes[node];
  }
  if (topology.numa_nodes > 1 && topology.distances.empty()) {
    for (std::uint32_t from = 0; from < topology.numa_nodes; ++from) {
      for (std::uint32_t to = 0; to < topology.numa_nodes; ++to)
        whole.distances.push_back(node_distance(topology, from, to));
    }
  }
  return message_of(whole);
}

std::string topology_text(const CpuTopology& topology) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseShortRepeatedPrimitives(true);
  std::string text;
  printer.PrintToString(message_of(topology), &text);
  return text;
}

}  // namespace ktstr
