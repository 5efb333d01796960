// MADT: the processors and the interrupt controllers (ACPI 6.5, 5.2.12).
//
// A processor with an APIC id up to 254 is a local APIC entry, any other an x2APIC entry: where both kinds
// occur, Linux ignores x2APIC entries below 255 (acpi_parse_x2apic) and a local APIC entry with id 255, the
// broadcast (acpi_parse_lapic). It numbers CPUs in the order of the entries, both kinds together, and the
// boot CPU must come first (acpi_parse_madt_lapic_entries, check_for_real_bsp): ours are in the order of the
// CPUs' numbers.
//
// An x2APIC entry counts only if the boot CPU's local APIC is in x2APIC mode already when the kernel is
// entered (apic_id_valid: until then the largest valid id is 254); a firmware would have seen to that. From
// id 256 on, Linux also wants KVM_FEATURE_MSI_EXT_DEST_ID (try_to_enable_x2apic).
#pragma once

#include <cstddef>
#include <vector>

#include "host/machine/topology.h"

namespace ktstr::kvm {

// From this id on a processor has an x2APIC entry.
inline constexpr std::uint32_t kFirstX2ApicId = 255;

std::vector<std::byte> make_madt(const CpuTopology& topology);

}  // namespace ktstr::kvm
