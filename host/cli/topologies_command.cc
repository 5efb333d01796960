#include "host/cli/topologies_command.h"

#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "host/run/machine_shape.h"
#include "host/run/topology_file.h"
#include "host/run/topology_presets.h"
#include "host/run/topology_spec.h"

namespace ktstr {
namespace {

int print_as_file(const std::string& spec) {
  const auto topology = load_topology(spec);
  if (topology) {
    fmt::print("{}", topology_text(*topology));
    return 0;
  }
  const Error& error = topology.error();
  fmt::print(stderr, "ktstr-vm: {}\n", error.to_string());
  if (!error.detail().empty()) fmt::print(stderr, "{}\n", error.detail());
  return static_cast<int>(error.code());
}

// "  (kvm only)", where not every kind of machine can have it.
std::string restriction(const CpuTopology& topology) {
  std::vector<std::string> names;
  for (const AccelChoice kind : kMachineKinds)
    if (check_topology_limits(kind, topology)) names.emplace_back(accel_name(kind));
  return names.size() == std::size(kMachineKinds) ? "" : fmt::format("  ({} only)", fmt::join(names, ", "));
}

}  // namespace

int topologies_command(const std::string& spec) {
  if (!spec.empty()) return print_as_file(spec);
  for (const TopologyPreset& preset : topology_presets()) {
    const CpuTopology topology = preset.topology();
    fmt::print("{:<20} {:<36} {:>4} CPUs{}\n", preset.name, format_topology(topology), topology.cpus(),
               restriction(topology));
  }
  return 0;
}

}  // namespace ktstr
