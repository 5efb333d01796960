// AcpiPower: the three registers by which a hardware-reduced ACPI system is switched off or reset (ACPI 6.5,
// 4.8.3.7 sleep control and status, 4.8.3.6 reset register), at ports 0x600 to 0x602 (guest_layout.h).
#pragma once

#include <cstdint>
#include <functional>

#include "host/machine/kvm/devices/bus.h"

namespace ktstr::kvm {

class AcpiPower : public BusDevice {
 public:
  static constexpr std::uint64_t kPorts = 3;

  // Called on the vCPU's thread at every such write. After a power-off Linux reads the sleep status until it
  // says "woken up", which it never does: the caller stops the vCPUs.
  AcpiPower(std::function<void()> power_off, std::function<void()> reset);

  std::string_view name() const override { return "acpi"; }
  // All registers read as zero.
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  const std::function<void()> power_off_;
  const std::function<void()> reset_;
};

}  // namespace ktstr::kvm
