// All devices of a kvm machine on their buses, under accesses of any address, width and value. Nothing may
// crash or hang; what is written to the serial port comes out or is counted; what nobody answers is all ones.
#include <algorithm>
#include <array>
#include <string>

#include "host/machine/kvm/devices/acpi_power.h"
#include "host/machine/kvm/devices/bus.h"
#include "host/machine/kvm/devices/i8042_reset.h"
#include "host/machine/kvm/devices/serial_16550.h"
#include "host/machine/kvm/devices/virtio_console.h"
#include "host/machine/kvm/devices/virtio_mmio.h"
#include "host/machine/kvm/guest_layout.h"
#include "tests/fuzz/fuzz_input.h"

using namespace ktstr;
using namespace ktstr::kvm;
using ktstr::fuzz::check;
using ktstr::fuzz::FuzzInput;

namespace {

struct Line : InterruptLine {
  void trigger() override {}
};

constexpr std::size_t kMaxSerial = 64;

class Devices {
 public:
  Devices() {
    check(ports_.add(kSerialPort, Serial16550::kPorts, serial_), "serial");
    check(ports_.add(kI8042Data, I8042Reset::kPorts, i8042_), "i8042");
    check(ports_.add(kAcpiSleepControl, AcpiPower::kPorts, acpi_), "acpi");
    check(memory_.add(kVirtioMmioGpa, VirtioMmio::kSize, virtio_), "virtio");
  }

  void run(FuzzInput& input) {
    while (!input.empty()) {
      const std::uint64_t kind = input.number(1);
      if (kind % 16 == 15) {
        take();
        if (virtio_.service()) check(false, "there is no more work without RAM");
        continue;
      }
      std::array<std::byte, 8> bytes;
      const std::uint64_t value = input.number(1 + kind / 16 % 8);
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(value >> 8 * i & 0xff);
      const std::span<std::byte> data = std::span(bytes).first(std::size_t{1} << kind / 2 % 4);
      const bool memory = kind / 8 % 2 == 0;
      const std::uint64_t address = memory ? kVirtioMmioGpa + input.number(2) % 0x1010 : port(input);
      const Bus& bus = memory ? memory_ : ports_;
      if (kind % 2 == 0) {
        const BusDevice* device = bus.read(address, data);
        if (device == nullptr)
          check(std::ranges::all_of(data, [](std::byte b) { return b == std::byte{0xff}; }), "not all ones");
      } else {
        bus.write(address, data);
      }
    }
    take();
  }

 private:
  static std::uint64_t port(FuzzInput& input) {
    static constexpr std::uint16_t bases[] = {kSerialPort, kI8042Data, kAcpiSleepControl, 0};
    return std::uint64_t{bases[input.number(1) % std::size(bases)]} + input.number(1) % 16 - 2;
  }
  void take() {
    const std::string output = serial_.take_output();
    check(output.size() <= kMaxSerial, "more output than may wait");
    check(output.empty() || announced_ == 1, "output is announced once");
    announced_ = 0;
  }

  Line line_;
  int announced_ = 0;
  Serial16550 serial_{line_, [this] { ++announced_; }, kMaxSerial};
  I8042Reset i8042_{[] {}};
  AcpiPower acpi_{[] {}, [] {}};
  VirtioConsole console_{{{.name = "", .is_console = true}, {.name = "ktstr.frames"}}};
  VirtioMmio virtio_{console_, GuestRamView(), line_, [] {}};
  Bus ports_;
  Bus memory_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  Devices().run(input);
  return 0;
}
