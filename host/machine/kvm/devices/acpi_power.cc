#include "host/machine/kvm/devices/acpi_power.h"

#include <algorithm>
#include <utility>

#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint8_t kSleepEnable = 1 << 5;
constexpr unsigned kSleepTypeShift = 2;  // three bits
constexpr std::uint8_t kSleepTypeMask = 7 << kSleepTypeShift;

}  // namespace

AcpiPower::AcpiPower(std::function<void()> power_off, std::function<void()> reset)
    : power_off_(std::move(power_off)), reset_(std::move(reset)) {}

void AcpiPower::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
}

void AcpiPower::write(std::uint64_t offset, std::span<const std::byte> data) {
  for (const std::byte byte : data) {
    const auto value = std::to_integer<std::uint8_t>(byte);
    switch (kAcpiSleepControl + offset++) {
      case kAcpiSleepControl:
        if ((value & (kSleepEnable | kSleepTypeMask)) ==
                (kSleepEnable | kAcpiSleepType5 << kSleepTypeShift) &&
            power_off_)
          power_off_();
        break;
      case kAcpiReset:
        if (value == kAcpiResetValue && reset_) reset_();
        break;
      default:
        break;
    }
  }
}

}  // namespace ktstr::kvm
