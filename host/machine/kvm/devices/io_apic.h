// IoApic: the interrupt controller between a PC's interrupt lines and its CPUs, where KVM has only the local
// APICs (split irqchip). Intel 82093AA data sheet; version 0x20 with its EOI register.
//
// What it is for. KVM's own I/O APIC has 8 bits for a CPU's APIC id. Guests with larger ids get this one,
// which turns each redirection entry into a message (MSI) for the local APICs, with 15 bits for the id: bits
// 49 to 55 of an entry are bits 8 to 14 of the destination, as Linux writes them where the hypervisor offers
// KVM_FEATURE_MSI_EXT_DEST_ID (struct IO_APIC_route_entry, virt_destid_8_14).
//
// The usual interrupt does not come by here. Each pin has a route in KVM (KVM_SET_GSI_ROUTING), kept equal to
// its entry, so that an eventfd that is bound to the pin becomes the message inside of the kernel. A masked
// pin has no route: its edges are lost, as the data sheet says. What remains are lines that devices hold up
// (level-triggered): set_line() sends a message and sets the entry's Remote IRR; the CPU's end of interrupt
// comes as KVM_EXIT_IOAPIC_EOI, or through the EOI register, and when the line is still up the message is
// sent again.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

#include "common/error.h"
#include "host/machine/kvm/devices/bus.h"

namespace ktstr::v1 {
class IoApicState;
}

namespace ktstr::kvm {

// An interrupt for a local APIC, as KVM takes it: bits 8 to 31 of the destination are in `address_high` at
// their places (KVM_X2APIC_API_USE_32BIT_IDS).
struct InterruptMessage {
  std::uint32_t address_low = 0;
  std::uint32_t address_high = 0;
  std::uint32_t data = 0;
  bool operator==(const InterruptMessage&) const = default;
};

// What the I/O APIC needs of the VM. Called with its lock held: must not call back.
class MessageSink {
 public:
  virtual ~MessageSink() = default;
  // Messages of all pins, by pin; nullopt: none. They replace the former ones.
  virtual void set_routes(std::span<const std::optional<InterruptMessage>> routes) = 0;
  virtual void send(const InterruptMessage& message) = 0;
};

class IoApic : public BusDevice {
 public:
  static constexpr std::size_t kPins = 24;
  static constexpr std::uint64_t kSize = 0x1000;

  // `sink` must outlive this. No route is set: all pins are masked.
  explicit IoApic(MessageSink& sink) : sink_(sink) {}

  std::string_view name() const override { return "io-apic"; }
  // Registers are 32 bits wide at multiples of 16; other accesses read as zero and ignore writes.
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  // A device raises its line, or takes it back. An edge-triggered pin sends when the line rises. Any thread;
  // `pin` < kPins.
  void set_line(std::uint32_t pin, bool high);
  // KVM_EXIT_IOAPIC_EOI: a CPU is done with this vector of a level-triggered interrupt. Any thread.
  void end_of_interrupt(std::uint8_t vector);

  // See device_state.cc. load() sets the routes.
  void save(v1::IoApicState& to);
  Expected<void> load(const v1::IoApicState& from);

 private:
  struct Pin {
    std::uint64_t entry = std::uint64_t{1} << 16;  // masked
    bool high = false;
  };

  std::uint32_t read_register() const;
  void write_register(std::uint32_t value);
  void write_entry(std::size_t pin, std::uint64_t entry);
  // Sends the message of a level-triggered pin whose line is up, unless the CPU is at it.
  void serve(Pin& pin);
  void end_locked(std::uint8_t vector);
  static std::optional<InterruptMessage> message_of(std::uint64_t entry);

  MessageSink& sink_;
  std::mutex mutex_;  // of everything below
  std::uint8_t selected_ = 0;
  std::uint32_t id_ = 0;
  std::array<Pin, kPins> pins_ = {};
  std::array<std::optional<InterruptMessage>, kPins> routes_ = {};
};

}  // namespace ktstr::kvm
