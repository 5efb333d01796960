// The two tables that say what the platform is: FADT (fixed hardware: none, but for three ports) and DSDT
// (devices).
//
// Hardware-reduced ACPI (ACPI 6.5, 4.1): no PM timer, no power-management event block, no SCI; sleeping and
// power-off go through two byte-wide registers, reset through a third. Linux then leaves the 8259 and the
// PIT alone and takes its timer from the local APIC, which saves thousands of exits at boot.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/error.h"
#include "host/machine/kvm/acpi/acpi_tables.h"

namespace ktstr::kvm {

// `dsdt_gpa`: where the DSDT will be.
std::vector<std::byte> make_fadt(std::uint64_t dsdt_gpa);

// \_S5, the COM1 serial and the virtio-mmio devices. Error kHost for a device above 4 GiB or with a GSI that
// the I/O APIC has not, or more than 256 devices.
Expected<std::vector<std::byte>> make_dsdt(std::span<const AcpiVirtioDevice> devices);

}  // namespace ktstr::kvm
