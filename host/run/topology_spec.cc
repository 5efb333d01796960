#include "host/run/topology_spec.h"

#include <charconv>
#include <set>
#include <vector>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/read_file.h"
#include "common/units.h"
#include "host/run/topology_file.h"
#include "host/run/topology_presets.h"

namespace ktstr {
namespace {

constexpr std::uint32_t kMaxPerLevel = 4096;
constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;

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

Expected<CpuTopology> find_preset(const std::string& name) {
  std::vector<std::string> names;
  for (const TopologyPreset& preset : topology_presets()) {
    if (preset.name == name) return preset.topology();
    names.emplace_back(preset.name);
  }
  const std::string near = closest_match(name, names);
  return fail(ErrorCode::kUsage,
              fmt::format("--topology {}: no such preset{}; `ktstr-vm topologies` lists them, a list is like "
                          "numa=1,llcs=2,cores=4,threads=2, a file needs its path",
                          quote(name), near.empty() ? "" : " (did you mean '" + near + "'?)"));
}

}  // namespace

Expected<CpuTopology> load_topology(const std::string& text) {
  const bool has_slash = text.find('/') != std::string::npos;
  if (!has_slash && text.find('=') != std::string::npos) {
    auto topology = parse_topology(text);
    if (!topology) return topology;
    if (auto ok = check_topology(*topology); !ok)
      return propagate(std::move(ok.error()), fmt::format("reading --topology {}", quote(text)));
    return topology;
  }
  if (!has_slash && text.find('.') == std::string::npos) return find_preset(text);
  auto content = read_file(text, kMaxFileBytes, ErrorCode::kUsage);
  if (!content) return propagate(std::move(content.error()), "reading the topology");
  return parse_topology_file(SourceText(text, std::move(*content)));
}

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
