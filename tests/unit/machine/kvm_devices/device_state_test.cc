// Devices that are saved, and others that go on from there.
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "host/machine/kvm/devices/i8042_reset.h"
#include "host/machine/kvm/devices/io_apic.h"
#include "host/machine/kvm/devices/serial_16550.h"
#include "host/machine/kvm/devices/virtio_console.h"
#include "host/machine/kvm/devices/virtio_mmio.h"
#include "proto/kvm_state.pb.h"
#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr;
using namespace ktstr::kvm;
using namespace ktstr::kvm::mock;

namespace {

template <class Device, class Message>
Message state_of(Device& device) {
  Message state;
  device.save(state);
  return state;
}

// Why a device does not take a state; empty: it does.
template <class Device, class Message>
std::string refusal(Device& device, const Message& state) {
  const auto loaded = device.load(state);
  if (loaded) return "";
  EXPECT_EQ(loaded.error().code(), ErrorCode::kUsage);
  return loaded.error().to_string();
}

// ---------------------------------------------------------------------------------------------------------------------

TEST(SerialState, RegistersAndOutputGoOn) {
  MockLine line, other_line;
  Serial16550 serial(line, [] {});
  write_register(serial, 3, 0x80, 1);  // divisor latch
  write_register(serial, 0, 1, 1);
  write_register(serial, 1, 2, 1);
  write_register(serial, 3, 0x03, 1);
  write_register(serial, 2, 0x01, 1);  // FIFO
  write_register(serial, 4, 0x0b, 1);  // OUT2
  write_register(serial, 7, 0x5a, 1);
  write_register(serial, 1, 0x02, 1);  // transmitter's interrupt: pending at once
  write_register(serial, 0, 'x', 1);
  const auto state = state_of<Serial16550, v1::SerialState>(serial);

  Serial16550 other(other_line, [] {});
  ASSERT_EQ(refusal(other, state), "");
  const auto again = state_of<Serial16550, v1::SerialState>(other);
  EXPECT_EQ(again.SerializeAsString(), state.SerializeAsString());
  EXPECT_EQ(other_line.edges, 0);
  other.repeat_edge();
  EXPECT_EQ(other_line.edges, 1);
  EXPECT_EQ(read_register(other, 2, 1), 0xc2U);  // identification: FIFO on, transmitter empty
  other.repeat_edge();
  EXPECT_EQ(other_line.edges, 1) << "it was answered";
  EXPECT_EQ(read_register(other, 7, 1), 0x5aU);
  EXPECT_EQ(other.take_output(), "x");
}

TEST(SerialState, ItsOutputIsBounded) {
  MockLine line;
  Serial16550 small(
      line, [] {}, 8);
  v1::SerialState state;
  state.set_output("0123456");
  ASSERT_EQ(refusal(small, state), "");
  write_register(small, 0, '7', 1);
  EXPECT_EQ(small.take_output(), "01234567");
  state.set_output("012345678");
  EXPECT_NE(refusal(small, state).find("9 bytes of output, more than the 8"), std::string::npos);
}

TEST(SerialState, RegistersOfMoreThanAByteAreRefused) {
  MockLine line;
  Serial16550 serial(line, [] {});
  v1::SerialState state;
  state.set_modem_control(0x100);
  EXPECT_NE(refusal(serial, state).find("modem control is 0x100"), std::string::npos);
}

TEST(I8042State, GoesOnAndIsChecked) {
  I8042Reset one([] {}), other([] {});
  write_register(one, 1, 3, 1);
  ASSERT_EQ(refusal(other, state_of<I8042Reset, v1::I8042State>(one)), "");
  EXPECT_EQ(read_register(other, 1, 1), 0x23U);
  v1::I8042State state;
  state.set_system_control(4);
  EXPECT_NE(refusal(other, state), "");
}

// ---------------------------------------------------------------------------------------------------------------------

struct Routes : MessageSink {
  void set_routes(std::span<const std::optional<InterruptMessage>> routes) override {
    ++calls;
    last.assign(routes.begin(), routes.end());
  }
  void send(const InterruptMessage& message) override { sent.push_back(message); }
  int calls = 0;
  std::vector<std::optional<InterruptMessage>> last;
  std::vector<InterruptMessage> sent;
};

TEST(IoApicState, EntriesLinesAndRoutesGoOn) {
  Routes routes, other_routes;
  IoApic one(routes), other(other_routes);
  const auto set = [&one](std::uint32_t index, std::uint32_t value) {
    write_register(one, 0x00, index, 4);
    write_register(one, 0x10, value, 4);
  };
  set(0x10 + 2 * 4, 0x41);    // pin 4: edge
  set(0x10 + 2 * 9, 0x8042);  // pin 9: level
  one.set_line(9, true);
  ASSERT_EQ(routes.sent.size(), 1U);
  const auto state = state_of<IoApic, v1::IoApicState>(one);

  ASSERT_EQ(refusal(other, state), "");
  EXPECT_EQ(other_routes.calls, 1);
  EXPECT_EQ(other_routes.last, routes.last);
  const auto again = state_of<IoApic, v1::IoApicState>(other);
  EXPECT_EQ(again.SerializeAsString(), state.SerializeAsString());
  // The CPU is at it: nothing is sent until it is done, and then once more because the line is up.
  EXPECT_TRUE(other_routes.sent.empty());
  other.end_of_interrupt(0x42);
  EXPECT_EQ(other_routes.sent.size(), 1U);
}

TEST(IoApicState, WhatItCannotBeIsRefused) {
  Routes routes;
  IoApic io_apic(routes);
  v1::IoApicState state;
  EXPECT_NE(refusal(io_apic, state).find("0 entries instead of 24"), std::string::npos);
  while (state.entries_size() < 24) state.add_entries(1 << 16);
  EXPECT_EQ(refusal(io_apic, state), "");
  state.set_lines(1 << 24);
  EXPECT_NE(refusal(io_apic, state), "");
}

// ---------------------------------------------------------------------------------------------------------------------

constexpr std::uint64_t kFeatures = kVersion1 | kEventIndexBit | kIndirectBit | kMultiport;

// A console and its registers; several of them may have the same RAM, as machines that go on from one guest
// have.
struct Console {
  explicit Console(MockRam& ram) : registers(console, ram.view(), line, [] {}) {
    for (std::size_t port = 0; port < 2; ++port) {
      console.set_receiver(port, [this, port](std::span<const std::byte> bytes) {
        out[port].append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      });
    }
  }
  void serve() {
    while (registers.service()) {
    }
  }

  MockLine line;
  VirtioConsole console{{{.name = "", .is_console = true}, {.name = "ktstr.frames", .is_console = false}}};
  VirtioMmio registers;
  std::string out[2];
};

class ConsoleState : public testing::Test {
 protected:
  void SetUp() override {
    driver_.probe(16, 4);
    for (int i = 0; i < 8; ++i) {
      base_.serve();
      driver_.interrupt();
    }
    driver_.open(1);
    base_.serve();
    driver_.interrupt();
  }
  v1::VirtioMmioState registers() { return state_of<VirtioMmio, v1::VirtioMmioState>(base_.registers); }
  v1::ConsoleState console() { return state_of<VirtioConsole, v1::ConsoleState>(base_.console); }
  void expect_loaded(Console& other) {
    ASSERT_EQ(refusal(other.console, console()), "");
    ASSERT_EQ(refusal(other.registers, registers()), "");
  }

  MockRam ram_{0x100000, 0x400000};
  Console base_{ram_};
  MockConsoleDriver driver_{base_.registers, ram_, kFeatures};
};

TEST_F(ConsoleState, AnotherDeviceGoesOnInBothDirections) {
  ASSERT_TRUE(driver_.write(1, "queued"));
  Console other(ram_);
  expect_loaded(other);
  EXPECT_EQ(other.registers.state(), base_.registers.state());
  other.serve();
  EXPECT_EQ(other.out[1], "queued");
  EXPECT_EQ(driver_.reclaim(1), 1);
  ASSERT_TRUE(other.console.send(1, "an answer"));
  other.serve();
  EXPECT_EQ(driver_.received(1), "an answer");
  EXPECT_GT(other.line.edges, 0);
  EXPECT_FALSE(other.registers.error());
  EXPECT_EQ(base_.out[1], "");
}

TEST_F(ConsoleState, BytesThatTheGuestHasNotTakenAreKeptUntilTheyAreDropped) {
  driver_.close(1);
  base_.serve();
  ASSERT_TRUE(base_.console.send(1, "for the guest"));
  base_.serve();
  EXPECT_EQ(console().ports(1).unread(), "for the guest");
  EXPECT_FALSE(console().ports(1).open());
  Console other(ram_);
  expect_loaded(other);
  EXPECT_EQ(other.console.unread(1), 13U);
  other.console.drop_unread();
  EXPECT_EQ(other.console.unread(1), 0U);
  EXPECT_EQ(base_.console.unread(1), 13U);
}

TEST_F(ConsoleState, AnUnansweredInterruptIsRepeated) {
  ASSERT_TRUE(driver_.write(1, "x"));
  base_.serve();
  ASSERT_TRUE(base_.console.send(1, "y"));
  base_.serve();
  ASSERT_NE(registers().interrupt_status(), 0U);
  Console other(ram_);
  expect_loaded(other);
  EXPECT_EQ(other.line.edges, 0);
  other.registers.repeat_edge();
  EXPECT_EQ(other.line.edges, 1);
  write_register(other.registers, kInterruptAck, 3, 4);
  other.registers.repeat_edge();
  EXPECT_EQ(other.line.edges, 1);
}

TEST_F(ConsoleState, ADeviceInNeedOfAResetStaysSo) {
  driver_.output(1).set_available_index(30000);
  base_.serve();
  ASSERT_TRUE(base_.registers.error());
  Console other(ram_);
  expect_loaded(other);
  EXPECT_EQ(other.registers.error(), base_.registers.error());
  other.serve();
  EXPECT_EQ(other.out[1], "");
}

TEST_F(ConsoleState, WhatNoDriverCanHaveDoneIsRefused) {
  const struct {
    const char* words;
    std::function<void(v1::VirtioMmioState&)> change;
  } cases[] = {
      {"the device's status is 0x110", [](v1::VirtioMmioState& of) { of.set_status(0x110); }},
      {"the interrupt status", [](v1::VirtioMmioState& of) { of.set_interrupt_status(4); }},
      {"without having agreed", [](v1::VirtioMmioState& of) { of.set_status(7); }},
      {"what the driver agreed on",
       [](v1::VirtioMmioState& of) {
         of.set_driver_features(of.driver_features() | std::uint64_t{1} << 63);
       }},
      {"before version 1",
       [](v1::VirtioMmioState& of) { of.set_driver_features(of.driver_features() & ~kVersion1); }},
      {"0 queues instead of 6", [](v1::VirtioMmioState& of) { of.clear_queues(); }},
      {"7 queues instead of 6", [](v1::VirtioMmioState& of) { of.add_queues(); }},
      {"is no power of two", [](v1::VirtioMmioState& of) { of.mutable_queues(1)->set_size(3); }},
      {"is no power of two", [](v1::VirtioMmioState& of) { of.mutable_queues(1)->set_size(1 << 20); }},
      {"is not in RAM", [](v1::VirtioMmioState& of) { of.mutable_queues(1)->set_used(0x10); }},
      {"is not in RAM",
       [](v1::VirtioMmioState& of) { of.mutable_queues(1)->set_descriptors(~std::uint64_t{0} - 15); }},
      {"is not aligned", [](v1::VirtioMmioState& of) { of.mutable_queues(1)->set_available(0x100001); }},
      {"a queue's index", [](v1::VirtioMmioState& of) { of.mutable_queues(5)->set_next_used(0x10000); }},
      {"ready before features", [](v1::VirtioMmioState& of) { of.set_status(3); }},
  };
  for (const auto& one : cases) {
    v1::VirtioMmioState state = registers();
    one.change(state);
    Console other(ram_);
    const std::string why = refusal(other.registers, state);
    EXPECT_NE(why.find(one.words), std::string::npos) << why << ", not: " << one.words;
  }
  v1::ConsoleState state = console();
  state.mutable_ports(0)->set_due(0x20);
  Console other(ram_);
  EXPECT_NE(refusal(other.console, state), "");
  state = console();
  state.add_ports();
  EXPECT_NE(refusal(other.console, state).find("3 ports instead of 2"), std::string::npos);
  state = console();
  state.mutable_ports(1)->mutable_received()->resize(std::size_t{5} << 20);
  EXPECT_NE(refusal(other.console, state), "");
}

}  // namespace
