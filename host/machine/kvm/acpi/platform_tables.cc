#include "host/machine/kvm/acpi/platform_tables.h"

#include <fmt/core.h>

#include "host/machine/kvm/acpi/aml.h"
#include "host/machine/kvm/acpi/table_writer.h"
#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm {
namespace {

// FADT (ACPI 6.5, 5.2.9). Its flags.
constexpr std::uint32_t kWbinvd = 1U << 0;
constexpr std::uint32_t kC1Supported = 1U << 2;
constexpr std::uint32_t kNoFixedPowerButton = 1U << 4;
constexpr std::uint32_t kNoFixedSleepButton = 1U << 5;
constexpr std::uint32_t kNoFixedRtcWake = 1U << 6;
constexpr std::uint32_t kResetRegister = 1U << 10;
constexpr std::uint32_t kHardwareReduced = 1U << 20;

// IAPC_BOOT_ARCH. The bit for an 8042 (bit 1) stays clear: set, Linux probes for a keyboard and a mouse,
// which costs ten thousand exits. Linux can still reset by the 8042's port (reboot=k), which needs no
// driver.
constexpr std::uint16_t kVgaNotPresent = 1U << 2;
constexpr std::uint16_t kCmosRtcNotPresent = 1U << 5;

constexpr std::uint8_t kFadtMajor = 6;
constexpr std::uint8_t kFadtMinor = 5;

// "Worse than C2/C3 support": latencies above 100 and 1000 microseconds mean that there is none.
constexpr std::uint16_t kNoC2 = 0xfff;
constexpr std::uint16_t kNoC3 = 0xfff;

constexpr std::size_t kMostDevices = 256;  // two hexadecimal digits of the name

aml::Bytes serial_port() {
  return aml::device(
      "COM1", aml::concat({aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(1)),
                           aml::name("_STA", aml::integer(0xf)),
                           aml::name("_CRS", aml::resource_template({aml::io_ports(kSerialPort, 8),
                                                                     aml::edge_interrupt(kSerialGsi)}))}));
}

aml::Bytes virtio_device(std::size_t number, const AcpiVirtioDevice& device) {
  return aml::device(
      fmt::format("VR{:02X}", number),
      aml::concat(
          {aml::name("_HID", aml::string("LNRO0005")), aml::name("_UID", aml::integer(number)),
           aml::name("_CCA", aml::integer(1)),  // DMA is coherent
           aml::name("_CRS", aml::resource_template(
                                 {aml::memory32_fixed(static_cast<std::uint32_t>(device.gpa), device.size),
                                  aml::edge_interrupt(device.gsi)}))}));
}

}  // namespace

std::vector<std::byte> make_fadt(std::uint64_t dsdt_gpa) {
  TableWriter fadt("FACP", kFadtMajor);
  fadt.u32(0);                                     // FACS: hardware-reduced needs none
  fadt.u32(static_cast<std::uint32_t>(dsdt_gpa));  // DSDT, below 4 GiB
  fadt.u8(0);                                      // was the interrupt model
  fadt.u8(0);                                      // preferred power-management profile: unspecified
  // The SCI does not exist, but Linux compares the sources of interrupt overrides with it
  // (acpi_parse_int_src_ovr): 0 here would turn the timer's override into one for the SCI.
  fadt.u16(static_cast<std::uint16_t>(kSciGsi));
  fadt.u32(0);        // SMI command port
  fadt.zeros(4);      // values to write there
  fadt.zeros(8 * 4);  // PM1a event .. GPE1 blocks
  fadt.zeros(8);      // their lengths
  fadt.u16(kNoC2).u16(kNoC3);
  fadt.u16(0).u16(0);  // flush size and stride: WBINVD works
  fadt.u8(0).u8(0);    // duty cycle
  fadt.u8(0).u8(0);    // day and month alarm in CMOS
  fadt.u8(0);          // century in CMOS
  fadt.u16(kVgaNotPresent | kCmosRtcNotPresent);
  fadt.u8(0);
  fadt.u32(kWbinvd | kC1Supported | kNoFixedPowerButton | kNoFixedSleepButton | kNoFixedRtcWake |
           kResetRegister | kHardwareReduced);
  fadt.io_port({kAcpiReset});
  fadt.u8(kAcpiResetValue);
  fadt.u16(0);  // Arm boot flags
  fadt.u8(kFadtMinor);
  fadt.u64(0);         // X_FIRMWARE_CTRL
  fadt.u64(dsdt_gpa);  // X_DSDT
  fadt.zeros(8 * 12);  // X_PM1a event .. X_GPE1 blocks
  fadt.io_port({kAcpiSleepControl});
  fadt.io_port({kAcpiSleepStatus});
  fadt.text(std::string_view("KTSTR\0\0\0", 8));  // hypervisor vendor identity
  return std::move(fadt).finish();
}

Expected<std::vector<std::byte>> make_dsdt(std::span<const AcpiVirtioDevice> devices) {
  if (devices.size() > kMostDevices) {
    return fail(ErrorCode::kHost,
                fmt::format("{} virtio devices are more than the {} that the ACPI tables can name",
                            devices.size(), kMostDevices));
  }
  aml::Bytes content = serial_port();
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const AcpiVirtioDevice& device = devices[i];
    if (device.size == 0 || device.gpa >= kHighRamGpa || kHighRamGpa - device.gpa < device.size) {
      return fail(ErrorCode::kHost, fmt::format("virtio device {} at {:#x} ({} bytes) is not below 4 GiB", i,
                                                device.gpa, device.size));
    }
    if (device.gsi >= kIoApicPins) {
      return fail(ErrorCode::kHost, fmt::format("virtio device {} has interrupt {}, the I/O APIC has only {}",
                                                i, device.gsi, kIoApicPins));
    }
    const aml::Bytes term = virtio_device(i, device);
    content.insert(content.end(), term.begin(), term.end());
  }
  // Revision 2: integers have 64 bits. Both names are in the root without a backslash too.
  TableWriter dsdt("DSDT", 2);
  dsdt.bytes(aml::name("_S5", aml::package({kAcpiSleepType5, kAcpiSleepType5, 0, 0})));
  dsdt.bytes(aml::scope("_SB", content));
  return std::move(dsdt).finish();
}

}  // namespace ktstr::kvm
