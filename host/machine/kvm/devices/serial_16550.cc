#include "host/machine/kvm/devices/serial_16550.h"

#include <linux/serial_reg.h>

#include <utility>

namespace ktstr::kvm {
namespace {

constexpr std::uint8_t kInterruptEnableBits = UART_IER_MSI | UART_IER_RLSI | UART_IER_THRI | UART_IER_RDI;
constexpr std::uint8_t kModemControlBits = 0x1f;
constexpr std::uint8_t kFifoEnabled = 0xc0;  // of the interrupt identification: a 16550A with its FIFO on

}  // namespace

Serial16550::Serial16550(InterruptLine& line, std::function<void()> output_ready, std::size_t max_output)
    : line_(line), output_ready_(std::move(output_ready)), max_half_(max_output / 2) {}

bool Serial16550::line_level() const {
  const bool open = (registers_.modem_control & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
  return open && registers_.transmitter_pending && (registers_.interrupt_enable & UART_IER_THRI) != 0;
}

// A wider access is one of each port, as on an ISA bus.
void Serial16550::read(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  for (std::byte& byte : data) byte = std::byte{read_register(offset++)};
}

void Serial16550::write(std::uint64_t offset, std::span<const std::byte> data) {
  bool edge = false;
  bool announce = false;
  {
    const std::lock_guard lock(mutex_);
    for (const std::byte byte : data) {
      const bool before = line_level();
      write_register(offset++, std::to_integer<std::uint8_t>(byte));
      edge |= !before && line_level();
    }
    if (!announced_ && !newer_.empty()) announced_ = announce = true;
  }
  if (edge) line_.trigger();
  if (announce && output_ready_) output_ready_();
}

std::uint8_t Serial16550::read_register(std::uint64_t offset) {
  const bool divisor = (registers_.line_control & UART_LCR_DLAB) != 0;
  switch (offset) {
    case UART_RX:
      return divisor ? registers_.divisor_low : std::uint8_t{0};
    case UART_IER:
      return divisor ? registers_.divisor_high : registers_.interrupt_enable;
    case UART_IIR: {
      std::uint8_t value = UART_IIR_NO_INT;
      if (registers_.transmitter_pending && (registers_.interrupt_enable & UART_IER_THRI) != 0) {
        value = UART_IIR_THRI;
        registers_.transmitter_pending = false;
      }
      if ((registers_.fifo_control & UART_FCR_ENABLE_FIFO) != 0) value |= kFifoEnabled;
      return value;
    }
    case UART_LCR:
      return registers_.line_control;
    case UART_MCR:
      return registers_.modem_control;
    case UART_LSR:
      return UART_LSR_TEMT | UART_LSR_THRE;
    case UART_MSR: {
      if ((registers_.modem_control & UART_MCR_LOOP) == 0) return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
      // The outputs come back as inputs, in the order that the data sheet gives them.
      std::uint8_t value = 0;
      if ((registers_.modem_control & UART_MCR_RTS) != 0) value |= UART_MSR_CTS;
      if ((registers_.modem_control & UART_MCR_DTR) != 0) value |= UART_MSR_DSR;
      if ((registers_.modem_control & UART_MCR_OUT1) != 0) value |= UART_MSR_RI;
      if ((registers_.modem_control & UART_MCR_OUT2) != 0) value |= UART_MSR_DCD;
      return value;
    }
    case UART_SCR:
      return registers_.scratch;
    default:
      return 0xff;
  }
}

void Serial16550::write_register(std::uint64_t offset, std::uint8_t value) {
  const bool divisor = (registers_.line_control & UART_LCR_DLAB) != 0;
  switch (offset) {
    case UART_TX:
      if (divisor) {
        registers_.divisor_low = value;
        break;
      }
      // In loopback the character goes to the receiver, which we do not have.
      if ((registers_.modem_control & UART_MCR_LOOP) == 0) put(static_cast<char>(value));
      registers_.transmitter_pending = true;
      break;
    case UART_IER: {
      if (divisor) {
        registers_.divisor_high = value;
        break;
      }
      const std::uint8_t enabled = value & kInterruptEnableBits;
      // The transmitter is empty at all times, so enabling its interrupt raises it: serial8250_THRE_test()
      // checks that it does so each time, and falls back to polling by a timer otherwise.
      if ((enabled & ~registers_.interrupt_enable & UART_IER_THRI) != 0)
        registers_.transmitter_pending = true;
      registers_.interrupt_enable = enabled;
      break;
    }
    case UART_FCR:
      registers_.fifo_control = value;
      break;
    case UART_LCR:
      registers_.line_control = value;
      break;
    case UART_MCR:
      registers_.modem_control = value & kModemControlBits;
      break;
    case UART_SCR:
      registers_.scratch = value;
      break;
    default:  // status registers
      break;
  }
}

void Serial16550::put(char c) {
  if (newer_.size() >= max_half_) {
    dropped_ += older_.size();
    older_ = std::exchange(newer_, {});
  }
  newer_ += c;
}

std::string Serial16550::take_output() {
  const std::lock_guard lock(mutex_);
  announced_ = false;
  std::string output = std::exchange(older_, {});
  if (output.empty()) return std::exchange(newer_, {});
  output += newer_;
  newer_.clear();
  return output;
}

std::uint64_t Serial16550::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

}  // namespace ktstr::kvm
