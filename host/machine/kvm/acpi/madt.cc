#include "host/machine/kvm/acpi/madt.h"

#include "host/machine/kvm/acpi/table_writer.h"
#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm {
namespace {

// Types of entries and their lengths.
constexpr std::uint8_t kLocalApic = 0, kLocalApicSize = 8;
constexpr std::uint8_t kIoApic = 1, kIoApicSize = 12;
constexpr std::uint8_t kSourceOverride = 2, kSourceOverrideSize = 10;
constexpr std::uint8_t kLocalApicNmi = 4, kLocalApicNmiSize = 6;
constexpr std::uint8_t kLocalX2Apic = 9, kLocalX2ApicSize = 16;
constexpr std::uint8_t kX2ApicNmi = 10, kX2ApicNmiSize = 12;

constexpr std::uint8_t kRevision = 5;  // ACPI 6.3 and later
constexpr std::uint32_t kEnabled = 1;
constexpr std::uint8_t kIsaBus = 0;
constexpr std::uint16_t kConforms = 0;  // as the bus has it: edge, active high
constexpr std::uint16_t kLevelActiveHigh = 3U << 2 | 1;
constexpr std::uint8_t kNmiLint = 1;   // LINT1, where a PC has its NMI
constexpr std::uint8_t kTimerGsi = 2;  // the PIT's line is on pin 2 of the I/O APIC

void add_override(TableWriter& madt, std::uint8_t irq, std::uint32_t gsi, std::uint16_t flags) {
  madt.u8(kSourceOverride).u8(kSourceOverrideSize).u8(kIsaBus).u8(irq).u32(gsi).u16(flags);
}

}  // namespace

std::vector<std::byte> make_madt(const CpuTopology& topology) {
  TableWriter madt("APIC", kRevision);
  // No 8259 (flags 0): hardware-reduced ACPI has none.
  madt.u32(static_cast<std::uint32_t>(kLocalApicGpa)).u32(0);
  bool any_x2apic = false;
  for (std::uint32_t cpu = 0; cpu < topology.cpus(); ++cpu) {
    const std::uint32_t id = apic_id(topology, cpu);
    if (id < kFirstX2ApicId) {
      // An APIC id is never smaller than the CPU's number, so the UID, which is that, fits.
      madt.u8(kLocalApic).u8(kLocalApicSize);
      madt.u8(static_cast<std::uint8_t>(cpu)).u8(static_cast<std::uint8_t>(id)).u32(kEnabled);
    } else {
      any_x2apic = true;
      madt.u8(kLocalX2Apic).u8(kLocalX2ApicSize).u16(0).u32(id).u32(kEnabled).u32(cpu);
    }
  }
  madt.u8(kIoApic).u8(kIoApicSize).u8(0).u8(0).u32(static_cast<std::uint32_t>(kIoApicGpa)).u32(0);
  add_override(madt, 0, kTimerGsi, kConforms);
  add_override(madt, static_cast<std::uint8_t>(kSciGsi), kSciGsi, kLevelActiveHigh);
  // For all processors.
  madt.u8(kLocalApicNmi).u8(kLocalApicNmiSize).u8(0xff).u16(kConforms).u8(kNmiLint);
  if (any_x2apic) madt.u8(kX2ApicNmi).u8(kX2ApicNmiSize).u16(kConforms).u32(0xffffffff).u8(kNmiLint).zeros(3);
  return std::move(madt).finish();
}

}  // namespace ktstr::kvm
