// --topology SPEC: the CPU topology of the machine as text.
#pragma once

#include <string_view>

#include "common/error.h"
#include "host/machine/machine.h"

namespace ktstr {

// Parses "numa=1,llcs=2,cores=4,threads=2": any order, each key at most once, missing ones are 1. `llcs` is
// the total and must be a multiple of `numa`; every number is at least 1. Error kUsage that names the key and
// what would be right.
Expected<CpuTopology> parse_topology(std::string_view spec);

// "numa=1,llcs=2,cores=4,threads=2".
std::string format_topology(const CpuTopology& topology);

}  // namespace ktstr
