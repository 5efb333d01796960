// --topology: what the user types there.
#pragma once

#include <string>
#include <string_view>

#include "common/error.h"
#include "host/machine/topology.h"

namespace ktstr {

// "numa=1,llcs=2,cores=4,threads=2", the name of a preset (topology_presets.h), or a topology file
// (topology_file.h): a text with a slash or a dot in it, but no such list. Passes check_topology(). Errors
// are kUsage.
Expected<CpuTopology> load_topology(const std::string& text);

// Parses "numa=1,llcs=2,cores=4,threads=2": any order, each key at most once, missing ones are 1. `llcs` is
// the total and must be a multiple of `numa`; every number is at least 1. Error kUsage that names the key and
// what would be right.
Expected<CpuTopology> parse_topology(std::string_view spec);

// "numa=1,llcs=2,cores=4,threads=2".
std::string format_topology(const CpuTopology& topology);

}  // namespace ktstr
