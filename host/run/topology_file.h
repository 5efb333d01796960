// Topology files: protobuf text format of ktstr.v1.Topology (docs/topology.md), and the message in a plan.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "common/error.h"
#include "host/machine/topology.h"
#include "host/run/source_text.h"
#include "proto/plan.pb.h"

namespace ktstr {

// What the file describes, checked with check_topology(). All errors are kUsage with file:line:column in the
// message, the offending line and a hint in the detail. Beyond what a machine may have it demands that the
// first node has CPUs and that a node's memory is a multiple of 2 MiB, at least 16 MiB.
Expected<CpuTopology> parse_topology_file(SourceText source);

// The whole topology as a message, nothing left out: every node with its LLCs and memory, and the distances
// if there are several nodes. `node_bytes` has a number for each node (node_memory()).
ktstr::v1::Topology whole_topology(const CpuTopology& topology, std::span<const std::uint64_t> node_bytes);

// Text that parse_topology_file() turns back into the same topology.
std::string topology_text(const CpuTopology& topology);

}  // namespace ktstr
