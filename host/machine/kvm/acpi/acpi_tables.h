// The ACPI tables of a kvm machine: RSDP, XSDT, FADT (hardware-reduced), DSDT, MADT, SRAT, SLIT, HMAT.
//
// Everything is made from the plan of the machine; nothing is patched afterwards. The DSDT's AML is written
// by hand-made encoders (ACPI 6.5 chapter 20), because iasl is no library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/error.h"
#include "host/machine/ram_layout.h"
#include "host/machine/topology.h"

namespace ktstr::kvm {

// A virtio-mmio device as the DSDT names it (HID LNRO0005).
struct AcpiVirtioDevice {
  std::uint64_t gpa = 0;
  std::uint32_t size = 0;
  std::uint32_t gsi = 0;  // edge-triggered, active high
};

struct AcpiPlan {
  const CpuTopology* topology = nullptr;  // checked
  std::vector<RamPiece> ram;              // for the SRAT
  std::vector<AcpiVirtioDevice> virtio;
};

// The tables, to be copied to kAcpiGpa (guest_layout.h); the RSDP is at their start.
struct AcpiTables {
  std::vector<std::byte> bytes;
};

// Error kHost when they do not fit between kAcpiGpa and kAcpiEnd.
Expected<AcpiTables> make_acpi_tables(const AcpiPlan& plan);

}  // namespace ktstr::kvm
