// The devices at rest
// -------------------
// Each device puts into a message all that the guest can tell or has set, and takes it back; both while no
// vCPU runs and no queue is served. Here in one place, because what is read here comes from a file: whoever
// looks for what a damaged or forged one can do finds all of it here.
//
// The rules of load():
//   * It accepts what save() can have written and nothing else. A value that no guest could have brought the
//     device to is an error (kUsage) that names it, not something to be mended: the state is then of another
//     program, or torn.
//   * After an error the device is of no use, and neither is the machine.
//   * Guest addresses are checked as at the moment when the driver set them (a queue's tables in RAM,
//     aligned); what the driver may write into those tables is as hostile as ever, and checked when it is
//     used.
//   * Nothing is allocated beyond what the message has, whose size the reader has bounded.
//
// What is not in the messages: who hears the device (receivers, event loops), and the wires to KVM
// (eventfds), which a new machine has made anew. Two things can be under way on those wires when a guest is
// saved, and are made good by doing them once more:
//   * An edge of an interrupt line, which KVM carries out on a thread of its own (irqfd_inject() of
//     virt/kvm/eventfd.c). repeat_edge() raises it again if the guest has not answered it; a second one finds
//     nothing to do, as an interrupt of a shared line would.
//   * A kick of the driver's that is in the eventfd. The new machine serves all queues once before it waits
//     for kicks.
#include <linux/virtio_config.h>

#include <algorithm>
#include <bit>

#include <fmt/core.h>

#include "host/machine/kvm/devices/i8042_reset.h"
#include "host/machine/kvm/devices/io_apic.h"
#include "host/machine/kvm/devices/serial_16550.h"
#include "host/machine/kvm/devices/virtio_console.h"
#include "host/machine/kvm/devices/virtio_mmio.h"
#include "proto/kvm_state.pb.h"

namespace ktstr::kvm {
namespace {

std::unexpected<Error> refuse(std::string what) {
  return fail(ErrorCode::kUsage, std::move(what));
}

// `value` where the registers of `mask` are all there is.
Expected<void> check_bits(const char* name, std::uint64_t value, std::uint64_t mask) {
  if ((value & ~mask) == 0) return {};
  return refuse(fmt::format("{} is {:#x}, which has bits outside of {:#x}", name, value, mask));
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Serial port

void Serial16550::save(v1::SerialState& to) const {
  const std::lock_guard lock(mutex_);
  to.set_interrupt_enable(registers_.interrupt_enable);
  to.set_fifo_control(registers_.fifo_control);
  to.set_line_control(registers_.line_control);
  to.set_modem_control(registers_.modem_control);
  to.set_scratch(registers_.scratch);
  to.set_divisor_low(registers_.divisor_low);
  to.set_divisor_high(registers_.divisor_high);
  to.set_transmitter_pending(registers_.transmitter_pending);
  to.set_output(older_ + newer_);
}

Expected<void> Serial16550::load(const v1::SerialState& from) {
  const struct {
    const char* name;
    std::uint32_t value;
    std::uint8_t Registers::*to;
  } bytes[] = {
      {"interrupt enable", from.interrupt_enable(), &Registers::interrupt_enable},
      {"FIFO control", from.fifo_control(), &Registers::fifo_control},
      {"line control", from.line_control(), &Registers::line_control},
      {"modem control", from.modem_control(), &Registers::modem_control},
      {"scratch", from.scratch(), &Registers::scratch},
      {"low divisor", from.divisor_low(), &Registers::divisor_low},
      {"high divisor", from.divisor_high(), &Registers::divisor_high},
  };
  if (from.output().size() > 2 * max_half_)
    return refuse(fmt::format("the serial port has {} bytes of output, more than the {} it keeps",
                              from.output().size(), 2 * max_half_));
  const std::lock_guard lock(mutex_);
  for (const auto& byte : bytes) {
    if (auto ok = check_bits(byte.name, byte.value, 0xff); !ok)
      return propagate(std::move(ok.error()), "loading the serial port");
    registers_.*byte.to = static_cast<std::uint8_t>(byte.value);
  }
  registers_.transmitter_pending = from.transmitter_pending();
  older_ = from.output().size() > max_half_ ? from.output().substr(0, max_half_) : std::string();
  newer_ = from.output().substr(older_.size());
  return {};
}

void Serial16550::repeat_edge() {
  bool up = false;
  {
    const std::lock_guard lock(mutex_);
    up = line_level();
  }
  if (up) line_.trigger();
}

// ---------------------------------------------------------------------------------------------------------------------
// Keyboard controller

void I8042Reset::save(v1::I8042State& to) const {
  to.set_system_control(system_control_.load(std::memory_order_relaxed));
}

Expected<void> I8042Reset::load(const v1::I8042State& from) {
  if (auto ok = check_bits("port 0x61", from.system_control(), 0x03); !ok)
    return propagate(std::move(ok.error()), "loading the keyboard controller");
  system_control_.store(static_cast<std::uint8_t>(from.system_control()), std::memory_order_relaxed);
  return {};
}

// ---------------------------------------------------------------------------------------------------------------------
// I/O APIC

void IoApic::save(v1::IoApicState& to) {
  const std::lock_guard lock(mutex_);
  to.set_selected(selected_);
  to.set_id(id_);
  std::uint64_t lines = 0;
  for (std::size_t pin = 0; pin < kPins; ++pin) {
    to.add_entries(pins_[pin].entry);
    if (pins_[pin].high) lines |= std::uint64_t{1} << pin;
  }
  to.set_lines(lines);
}

Expected<void> IoApic::load(const v1::IoApicState& from) {
  if (from.entries_size() != static_cast<int>(kPins))
    return refuse(fmt::format("the I/O APIC has {} entries instead of {}", from.entries_size(), kPins));
  if (auto ok = check_bits("the I/O APIC's selected register", from.selected(), 0xff); !ok) return ok;
  if (auto ok = check_bits("the I/O APIC's id", from.id(), 0x0f000000); !ok) return ok;
  if (auto ok = check_bits("the I/O APIC's lines", from.lines(), (std::uint64_t{1} << kPins) - 1); !ok)
    return ok;
  const std::lock_guard lock(mutex_);
  selected_ = static_cast<std::uint8_t>(from.selected());
  id_ = from.id();
  for (std::size_t pin = 0; pin < kPins; ++pin) {
    pins_[pin] = {.entry = from.entries(static_cast<int>(pin)), .high = (from.lines() >> pin & 1) != 0};
    routes_[pin] = message_of(pins_[pin].entry);
  }
  // Once for all pins: each call costs a grace period of the host.
  sink_.set_routes(routes_);
  return {};
}

// ---------------------------------------------------------------------------------------------------------------------
// virtio over memory-mapped registers

void VirtioMmio::save(v1::VirtioMmioState& to) const {
  const std::lock_guard lock(mutex_);
  to.set_status(state_.status);
  to.set_interrupt_status(state_.interrupt_status);
  to.set_config_generation(state_.config_generation);
  to.set_device_features_page(state_.device_features_page);
  to.set_driver_features_page(state_.driver_features_page);
  to.set_driver_features(state_.driver_features);
  to.set_selected_queue(state_.selected_queue);
  for (const VirtqueueState& queue : state_.queues) {
    v1::VirtqueueState& one = *to.add_queues();
    one.set_size(queue.size);
    one.set_ready(queue.ready);
    one.set_descriptors(queue.descriptors);
    one.set_available(queue.available);
    one.set_used(queue.used);
    one.set_next_available(queue.next_available);
    one.set_next_used(queue.next_used);
    one.set_signalled_used(queue.signalled_used);
  }
  if (error_) to.set_error(*error_);
}

Expected<void> VirtioMmio::load(const v1::VirtioMmioState& from) {
  constexpr std::uint32_t kStatusBits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                        VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |
                                        VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
  constexpr std::uint32_t kInterruptBits = 3;
  const std::lock_guard lock(mutex_);
  if (auto ok = check_bits("the device's status", from.status(), kStatusBits); !ok) return ok;
  if (auto ok = check_bits("the interrupt status", from.interrupt_status(), kInterruptBits); !ok) return ok;
  const bool agreed = (from.status() & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  if ((from.status() & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !agreed)
    return refuse("the driver is said to be ready without having agreed on features");
  // Before that the driver may have asked for what is not offered.
  if (agreed) {
    if (auto ok = check_bits("what the driver agreed on", from.driver_features(), offered_features()); !ok)
      return ok;
    if ((from.driver_features() >> VIRTIO_F_VERSION_1 & 1) == 0)
      return refuse("the driver is said to have agreed on a device of before version 1");
  }
  if (from.queues_size() != static_cast<int>(queues_.size()))
    return refuse(fmt::format("{} queues instead of {}", from.queues_size(), queues_.size()));
  state_.status = from.status();
  state_.interrupt_status = from.interrupt_status();
  state_.config_generation = from.config_generation();
  state_.device_features_page = from.device_features_page();
  state_.driver_features_page = from.driver_features_page();
  state_.driver_features = from.driver_features();
  state_.selected_queue = from.selected_queue();
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const v1::VirtqueueState& one = from.queues(static_cast<int>(i));
    for (const std::uint32_t index : {one.next_available(), one.next_used(), one.signalled_used()})
      if (auto ok = check_bits("a queue's index", index, 0xffff); !ok) return ok;
    state_.queues[i] = {.size = one.size(),
                        .ready = one.ready(),
                        .descriptors = one.descriptors(),
                        .available = one.available(),
                        .used = one.used(),
                        .next_available = static_cast<std::uint16_t>(one.next_available()),
                        .next_used = static_cast<std::uint16_t>(one.next_used()),
                        .signalled_used = static_cast<std::uint16_t>(one.signalled_used())};
    // One that is not ready may have anything in its registers.
    if (!one.ready()) continue;
    if (!agreed) return refuse(fmt::format("queue {} is said to be ready before features were agreed on", i));
    if (auto checked = queues_[i].check(); !checked) return refuse(std::move(checked.error()));
  }
  if (agreed) set_queue_features();
  error_.reset();
  if (!from.error().empty()) error_ = from.error();
  return {};
}

void VirtioMmio::repeat_edge() {
  bool up = false;
  {
    const std::lock_guard lock(mutex_);
    up = state_.interrupt_status != 0;
  }
  if (up) line_.trigger();
}

// ---------------------------------------------------------------------------------------------------------------------
// Console

void VirtioConsole::save(v1::ConsoleState& to) const {
  to.set_multiport(state_.multiport);
  for (std::size_t i = 0; i < ports_.size(); ++i) {
    v1::ConsolePortState& port = *to.add_ports();
    port.set_due(state_.ports[i].due);
    port.set_open(state_.ports[i].open);
    std::string& unread = *port.mutable_unread();
    for (ByteQueue rest = ports_[i].unread; !rest.empty();) {
      const std::string_view piece = rest.front(rest.size());
      unread += piece;
      rest.remove(piece.size());
    }
    port.set_received(ports_[i].received);
  }
}

Expected<void> VirtioConsole::load(const v1::ConsoleState& from) {
  constexpr std::uint32_t kDueBits = 0x1f;
  constexpr std::size_t kMaxReceived = kServiceBytes + kMaxChain;
  if (from.ports_size() != static_cast<int>(ports_.size()))
    return refuse(fmt::format("the console has {} ports instead of {}", from.ports_size(), ports_.size()));
  state_.multiport = from.multiport();
  for (std::size_t i = 0; i < ports_.size(); ++i) {
    const v1::ConsolePortState& port = from.ports(static_cast<int>(i));
    if (auto ok = check_bits("a console port's messages", port.due(), kDueBits); !ok) return ok;
    if (port.unread().size() > kMaxUnread || port.received().size() > kMaxReceived)
      return refuse(
          fmt::format("console port {} has {} unread and {} received bytes; at most {} and {} can be", i,
                      port.unread().size(), port.received().size(), kMaxUnread, kMaxReceived));
    state_.ports[i] = {.due = static_cast<std::uint8_t>(port.due()), .open = port.open()};
    ports_[i].unread = {};
    ports_[i].unread.append(port.unread());
    ports_[i].received = port.received();
  }
  return {};
}

}  // namespace ktstr::kvm
