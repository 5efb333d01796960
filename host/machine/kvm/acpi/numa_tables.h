// SRAT: which node each processor and each piece of RAM belongs to (ACPI 6.5, 5.2.16). SLIT: how far the
// nodes are from each other (5.2.17). A node's number is its proximity domain.
//
// Linux gives its node numbers in the order in which it meets the proximity domains, all processors before
// any memory (acpi_numa_init, acpi_map_pxm_to_node). A memory-only node before a node with CPUs would so get
// a higher number than was asked for. For that case alone there is a processor entry for such a node too,
// with the APIC id 255, which no processor can have in an entry of this kind.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "host/machine/ram_layout.h"
#include "host/machine/topology.h"

namespace ktstr::kvm {

std::vector<std::byte> make_srat(const CpuTopology& topology, std::span<const RamPiece> ram);
std::vector<std::byte> make_slit(const CpuTopology& topology);

}  // namespace ktstr::kvm
