// Serial16550: the first serial port of a PC, output only: the kernel's console from its first message.
//
// It is a 16550A as Linux' 8250 driver probes and drives it (drivers/tty/serial/8250/8250_port.c:
// autoconfig(), serial8250_do_startup(), serial8250_console_write()), whose transmitter takes no time: the
// line status says "all sent" at every read, so the driver never polls twice. What it costs: a write for each
// character, which KVM can collect (coalesced_writes.h), a read of the line status for each, or for each 16
// (the FIFO, which the console uses once somebody has opened the port), and three accesses for each message.
//
// The transmitter's interrupt (the only one, as nothing is ever received and the modem lines do not change)
// becomes pending when the driver enables it, and after each character. Reading the interrupt identification
// takes it back. An edge goes out when the line rises; as on a PC, OUT2 of the modem control gates the line.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "common/error.h"
#include "host/machine/kvm/devices/bus.h"

namespace ktstr::v1 {
class SerialState;
}

namespace ktstr::kvm {

class Serial16550 : public BusDevice {
 public:
  static constexpr std::uint64_t kPorts = 8;
  // Output that nobody takes is kept up to this many bytes; of more the newest.
  static constexpr std::size_t kMaxOutput = std::size_t{16} << 20;

  // `output_ready` is called on the vCPU's thread, with no lock held, when there is output again: at most
  // once between two calls of take_output(). `line` must outlive this.
  Serial16550(InterruptLine& line, std::function<void()> output_ready, std::size_t max_output = kMaxOutput);

  std::string_view name() const override { return "serial"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  // What the guest has written since the last call. Any thread.
  std::string take_output();
  // Registers, and the output that nobody has taken; see device_state.cc for what these two promise.
  void save(v1::SerialState& to) const;
  Expected<void> load(const v1::SerialState& from);
  // An edge, when the line is up: after load(), because one may have been on its way when it was saved.
  void repeat_edge();

  // Bytes that were dropped, oldest first, because nobody took them. Any thread.
  std::uint64_t dropped() const;

 private:
  struct Registers {
    std::uint8_t interrupt_enable = 0;
    std::uint8_t fifo_control = 0;
    std::uint8_t line_control = 0;
    std::uint8_t modem_control = 0;
    std::uint8_t scratch = 0;
    std::uint8_t divisor_low = 12;  // 9600 baud, as firmware leaves it
    std::uint8_t divisor_high = 0;
    bool transmitter_pending = false;  // interrupt "transmitter empty" not yet seen by the driver
  };

  std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  void put(char c);
  bool line_level() const;

  InterruptLine& line_;
  const std::function<void()> output_ready_;
  const std::size_t max_half_;  // of the output's bounds
  mutable std::mutex mutex_;    // of everything below
  Registers registers_;
  // The output, in two halves so that dropping the oldest costs nothing: each is at most
  // max_half_ bytes.
  std::string older_;
  std::string newer_;
  std::uint64_t dropped_ = 0;
  bool announced_ = false;  // output_ready was called since the last take_output
};

}  // namespace ktstr::kvm
