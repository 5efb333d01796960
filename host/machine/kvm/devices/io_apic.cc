#include "host/machine/kvm/devices/io_apic.h"

#include <algorithm>
#include <cstring>

namespace ktstr::kvm {
namespace {

// Memory-mapped registers: which register, its value, end of interrupt.
constexpr std::uint64_t kSelect = 0x00;
constexpr std::uint64_t kWindow = 0x10;
constexpr std::uint64_t kEndOfInterrupt = 0x40;

// Registers behind the window.
constexpr std::uint32_t kId = 0;
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kArbitration = 2;
constexpr std::uint32_t kFirstEntry = 0x10;  // two for each pin
constexpr std::uint32_t kIdMask = 0x0f000000;
constexpr std::uint32_t kVersionValue = (IoApic::kPins - 1) << 16 | 0x20;

// A redirection entry.
constexpr std::uint64_t kVectorMask = 0xff;
constexpr std::uint64_t kDeliveryModeMask = 0x700;
constexpr std::uint64_t kLogical = 1 << 11;
constexpr std::uint64_t kDeliveryStatus = 1 << 12;
constexpr std::uint64_t kRemoteIrr = 1 << 14;
constexpr std::uint64_t kLevel = 1 << 15;
constexpr std::uint64_t kMasked = 1 << 16;
constexpr std::uint64_t kReadOnly = kDeliveryStatus | kRemoteIrr;
constexpr unsigned kDestinationShift = 56;
constexpr unsigned kHighDestinationShift = 49;
constexpr std::uint64_t kHighDestinationMask = 0x7f;

// A message (Intel SDM vol. 3A, 11.11).
constexpr std::uint32_t kMessageAddress = 0xfee00000;
constexpr std::uint32_t kMessageLogical = 1 << 2;
constexpr std::uint32_t kMessageAssert = 1 << 14;
constexpr std::uint32_t kMessageLevel = 1 << 15;

}  // namespace

std::optional<InterruptMessage> IoApic::message_of(std::uint64_t entry) {
  if ((entry & kMasked) != 0) return std::nullopt;
  const auto low = static_cast<std::uint32_t>(entry >> kDestinationShift);
  const auto high = static_cast<std::uint32_t>(entry >> kHighDestinationShift & kHighDestinationMask);
  InterruptMessage message;
  message.address_low = kMessageAddress | low << 12 | ((entry & kLogical) != 0 ? kMessageLogical : 0);
  message.address_high = high << 8;
  message.data = static_cast<std::uint32_t>(entry & (kVectorMask | kDeliveryModeMask));
  if ((entry & kLevel) != 0) message.data |= kMessageLevel | kMessageAssert;
  return message;
}

void IoApic::read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  if (data.size() != sizeof(std::uint32_t)) return;
  const std::lock_guard lock(mutex_);
  const std::uint32_t value = offset == kSelect ? selected_ : offset == kWindow ? read_register() : 0;
  std::memcpy(data.data(), &value, sizeof(value));
}

void IoApic::write(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint32_t value = 0;
  if (data.size() != sizeof(value)) return;
  std::memcpy(&value, data.data(), sizeof(value));
  const std::lock_guard lock(mutex_);
  if (offset == kSelect) selected_ = static_cast<std::uint8_t>(value);
  if (offset == kWindow) write_register(value);
  if (offset == kEndOfInterrupt) end_locked(static_cast<std::uint8_t>(value));
}

std::uint32_t IoApic::read_register() const {
  switch (selected_) {
    case kId:
    case kArbitration:
      return id_;
    case kVersion:
      return kVersionValue;
    default:
      break;
  }
  const std::size_t pin = (std::size_t{selected_} - kFirstEntry) / 2;
  if (selected_ < kFirstEntry || pin >= kPins) return 0;
  return static_cast<std::uint32_t>(pins_[pin].entry >> (selected_ % 2 == 0 ? 0 : 32));
}

void IoApic::write_register(std::uint32_t value) {
  if (selected_ == kId) id_ = value & kIdMask;
  const std::size_t pin = (std::size_t{selected_} - kFirstEntry) / 2;
  if (selected_ < kFirstEntry || pin >= kPins) return;
  const std::uint64_t entry = pins_[pin].entry;
  constexpr std::uint64_t kLow = 0xffffffff;
  if (selected_ % 2 == 0)
    write_entry(pin, (entry & ~kLow) | value);
  else
    write_entry(pin, (entry & kLow) | std::uint64_t{value} << 32);
}

void IoApic::write_entry(std::size_t index, std::uint64_t entry) {
  Pin& pin = pins_[index];
  pin.entry = (entry & ~kReadOnly) | (pin.entry & kReadOnly);
  // An edge has no end that anybody waits for (and so Linux ends an interrupt on versions below 0x20).
  if ((pin.entry & kLevel) == 0) pin.entry &= ~kRemoteIrr;
  // Telling KVM costs a grace period of the host: only what has changed. Linux writes entries in two halves.
  if (auto route = message_of(pin.entry); route != routes_[index]) {
    routes_[index] = route;
    sink_.set_routes(routes_);
  }
  serve(pin);
}

void IoApic::serve(Pin& pin) {
  if (!pin.high || (pin.entry & (kLevel | kRemoteIrr)) != kLevel) return;
  const auto message = message_of(pin.entry);
  if (!message) return;
  pin.entry |= kRemoteIrr;
  sink_.send(*message);
}

void IoApic::set_line(std::uint32_t index, bool high) {
  const std::lock_guard lock(mutex_);
  Pin& pin = pins_[index];
  const bool rose = high && !pin.high;
  pin.high = high;
  if ((pin.entry & kLevel) != 0) return serve(pin);
  if (const auto message = message_of(pin.entry); rose && message) sink_.send(*message);
}

void IoApic::end_of_interrupt(std::uint8_t vector) {
  const std::lock_guard lock(mutex_);
  end_locked(vector);
}

void IoApic::end_locked(std::uint8_t vector) {
  for (Pin& pin : pins_) {
    if ((pin.entry & kLevel) == 0 || (pin.entry & kVectorMask) != vector) continue;
    pin.entry &= ~kRemoteIrr;
    serve(pin);
  }
}

}  // namespace ktstr::kvm
