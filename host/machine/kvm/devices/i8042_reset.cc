#include "host/machine/kvm/devices/i8042_reset.h"

#include <utility>

namespace ktstr::kvm {
namespace {

constexpr std::uint64_t kSystemControl = 1;  // port 0x61
constexpr std::uint64_t kCommand = 4;        // port 0x64
constexpr std::uint8_t kOutputFull = 0x01;   // of the status: the driver may read a byte
constexpr std::uint8_t kPulseReset = 0xfe;
constexpr std::uint8_t kSystemControlBits = 0x03;  // gate of timer 2, speaker
constexpr std::uint8_t kTimer2Output = 0x20;

}  // namespace

I8042Reset::I8042Reset(std::function<void()> reset) : reset_(std::move(reset)) {}

void I8042Reset::read(std::uint64_t offset, std::span<std::byte> data) {
  for (std::byte& byte : data) {
    switch (offset++) {
      case kSystemControl:
        byte = std::byte(system_control_.load(std::memory_order_relaxed) | kTimer2Output);
        break;
      case kCommand:
        byte = std::byte{kOutputFull};
        break;
      default:
        byte = std::byte{0};
    }
  }
}

void I8042Reset::write(std::uint64_t offset, std::span<const std::byte> data) {
  for (const std::byte byte : data) {
    const auto value = std::to_integer<std::uint8_t>(byte);
    if (offset == kSystemControl)
      system_control_.store(value & kSystemControlBits, std::memory_order_relaxed);
    if (offset == kCommand && value == kPulseReset && reset_) reset_();
    ++offset;
  }
}

}  // namespace ktstr::kvm
