#include "host/run/topology_spec.h"

#include <charconv>
#include <set>
#include <string>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/units.h"

namespace ktstr {
namespace {

constexpr std::uint32_t kMaxPerLevel = 4096;

std::uint32_t* member(CpuTopology& topology, std::string_view key) {
  if (key == "numa") return &topology.numa_nodes;
  if (key == "llcs") return &topology.llcs;
  if (key == "cores") return &topology.cores_per_llc;
  if (key == "threads") return &topology.threads_per_core;
  return nullptr;
}

Expected<void> take_element(CpuTopology& topology, std::string_view element, std::set<std::string>& seen) {
  const std::size_t equals = element.find('=');
  const std::string key(element.substr(0, equals));
  std::uint32_t* value = member(topology, key);
  if (value == nullptr) {
    const std::string near = closest_match(key, {"numa", "llcs", "cores", "threads"});
    return fail(ErrorCode::kUsage,
                fmt::format("unknown key {}{}; keys are numa, llcs, cores, threads", quote(key),
                            near.empty() ? "" : " (did you mean '" + near + "'?)"));
  }
  if (!seen.insert(key).second) return fail(ErrorCode::kUsage, fmt::format("'{}' is given twice", key));
  const std::string_view number = equals == std::string_view::npos ? "" : element.substr(equals + 1);
  const auto parsed = std::from_chars(number.data(), number.data() + number.size(), *value);
  if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size() || *value < 1 ||
      *value > kMaxPerLevel) {
    return fail(ErrorCode::kUsage, fmt::format("'{}' must be a whole number from 1 to {}, not {}", key,
                                               kMaxPerLevel, quote(number)));
  }
  return {};
}

}  // namespace

Expected<CpuTopology> parse_topology(std::string_view spec) {
  CpuTopology topology;
  std::set<std::string> seen;
  std::string_view rest = spec;
  do {
    const std::size_t comma = rest.find(',');
    if (auto taken = take_element(topology, rest.substr(0, comma), seen); !taken) {
      return propagate(std::move(taken.error()), fmt::format("reading --topology {}", quote(spec)));
    }
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
  } while (!rest.empty());
  if (topology.llcs % topology.numa_nodes != 0) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("--topology {}: llcs is the total over all nodes, so {} must be a multiple of numa={}",
                    quote(spec), topology.llcs, topology.numa_nodes));
  }
  return topology;
}

std::string format_topology(const CpuTopology& topology) {
  return fmt::format("numa={},llcs={},cores={},threads={}", topology.numa_nodes, topology.llcs,
                     topology.cores_per_llc, topology.threads_per_core);
}

}  // namespace ktstr
