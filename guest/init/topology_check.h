// Whether the kernel sees the CPUs, caches and nodes that the plan has. A scheduler that is tested on another
// topology than the one that was asked for gives a verdict about nothing.
#pragma once

#include <optional>
#include <string>

#include "proto/plan.pb.h"

namespace ktstr::guest {

struct TopologyFinding {
  bool kernel_lacks = false;  // the kernel cannot see such a topology; otherwise machine and plan differ
  std::string text;           // names the first differences
};

// Compares `planned` with what lies below `system` (/sys/devices/system in a guest): CPUs online, threads of
// each core, CPUs of each last-level cache, CPUs, distances and memory of each node. Nothing when they agree.
// Counts beyond what a kernel can have are cut. `command_line` is the kernel's; arguments in it that take
// CPUs or nodes away are named beside the differences.
std::optional<TopologyFinding> find_topology_difference(const ktstr::v1::Topology& planned,
                                                        const std::string& system,
                                                        const std::string& command_line);

}  // namespace ktstr::guest
