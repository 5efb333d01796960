#include "host/machine/kvm/devices/io_apic.h"

#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_devices/mock_guest.h"

namespace ktstr::kvm {
namespace {

using mock::read_register;
using mock::write_register;

constexpr std::uint64_t kMasked = 1 << 16, kLevel = 1 << 15, kLogical = 1 << 11, kRemoteIrr = 1 << 14;

// Notes what it is told.
class MockSink : public MessageSink {
 public:
  void set_routes(std::span<const std::optional<InterruptMessage>> given) override {
    routes.assign(given.begin(), given.end());
    ++updates;
  }
  void send(const InterruptMessage& message) override { sent.push_back(message); }

  std::vector<std::optional<InterruptMessage>> routes;
  std::vector<InterruptMessage> sent;
  int updates = 0;
};

class IoApicTest : public testing::Test {
 protected:
  std::uint32_t get(std::uint32_t index) {
    write_register(apic_, 0, index, 4);
    return static_cast<std::uint32_t>(read_register(apic_, 0x10, 4));
  }
  void set(std::uint32_t index, std::uint32_t value) {
    write_register(apic_, 0, index, 4);
    write_register(apic_, 0x10, value, 4);
  }
  // As Linux does it: the half with the mask last.
  void set_entry(std::uint32_t pin, std::uint64_t entry) {
    set(0x11 + 2 * pin, static_cast<std::uint32_t>(entry >> 32));
    set(0x10 + 2 * pin, static_cast<std::uint32_t>(entry));
  }
  std::uint64_t entry(std::uint32_t pin) {
    return std::uint64_t{get(0x11 + 2 * pin)} << 32 | get(0x10 + 2 * pin);
  }

  MockSink sink_;
  IoApic apic_{sink_};
};

TEST_F(IoApicTest, Identification) {
  EXPECT_EQ(get(1), 0x00170020U);  // 24 pins, version 0x20
  EXPECT_EQ(get(0), 0U);
  set(0, 0xffffffff);
  EXPECT_EQ(get(0), 0x0f000000U);
  EXPECT_EQ(get(2), 0x0f000000U);
  set(1, 0);
  EXPECT_EQ(get(1), 0x00170020U);
}

TEST_F(IoApicTest, AllMaskedAtFirst) {
  for (std::uint32_t pin = 0; pin < IoApic::kPins; ++pin) {
    EXPECT_EQ(entry(pin), kMasked);
    apic_.set_line(pin, true);
  }
  EXPECT_TRUE(sink_.sent.empty());
  EXPECT_EQ(sink_.updates, 0);
}

TEST_F(IoApicTest, ReadOnlyBitsOfEntries) {
  set_entry(3, ~std::uint64_t{0});
  EXPECT_EQ(entry(3), ~(kRemoteIrr | 1U << 12));
}

TEST_F(IoApicTest, AccessesThatAreNone) {
  set_entry(3, 0x31);
  sink_.updates = 0;
  for (std::uint32_t index = 0x10 + 2 * IoApic::kPins; index < 256; ++index) {
    set(index, 0xffffffff);
    EXPECT_EQ(get(index), 0U);
  }
  for (std::uint32_t index = 3; index < 16; ++index) {
    set(index, 0xffffffff);
    EXPECT_EQ(get(index), 0U);
  }
  write_register(apic_, 0, 0x16, 4);
  for (const std::size_t bytes : {1U, 2U, 8U}) {
    write_register(apic_, 0x10, ~std::uint64_t{0}, bytes);
    EXPECT_EQ(read_register(apic_, 0x10, bytes), 0U);
  }
  write_register(apic_, 0x14, 0xffffffff, 4);
  EXPECT_EQ(read_register(apic_, 0x20, 4), 0U);
  EXPECT_EQ(entry(3), 0x31U);
  EXPECT_EQ(sink_.updates, 0);
}

TEST_F(IoApicTest, AnEntryBecomesAMessage) {
  set_entry(5, std::uint64_t{0x12} << 56 | 0x31);
  ASSERT_EQ(sink_.routes.size(), IoApic::kPins);
  EXPECT_EQ(sink_.routes[5], (InterruptMessage{.address_low = 0xfee12000, .address_high = 0, .data = 0x31}));
  for (std::uint32_t pin = 0; pin < IoApic::kPins; ++pin) {
    EXPECT_EQ(sink_.routes[pin].has_value(), pin == 5) << pin;
  }
  // Logical destination, lowest priority, level.
  set_entry(6, std::uint64_t{1} << 56 | kLogical | kLevel | 0x1a0);
  EXPECT_EQ(sink_.routes[6],
            (InterruptMessage{.address_low = 0xfee01004, .address_high = 0, .data = 0xc1a0}));
}

// Bits 49 to 55 are bits 8 to 14 of the destination; bits 32 to 48 are none.
TEST_F(IoApicTest, LongDestinations) {
  set_entry(5, std::uint64_t{0x2c} << 56 | std::uint64_t{1} << 49 | 0x31);
  EXPECT_EQ(sink_.routes[5],
            (InterruptMessage{.address_low = 0xfee2c000, .address_high = 0x100, .data = 0x31}));
  set_entry(5, 0xffffffff00000031);
  EXPECT_EQ(sink_.routes[5],
            (InterruptMessage{.address_low = 0xfeeff000, .address_high = 0x7f00, .data = 0x31}));
}

// Each update costs the host a grace period.
TEST_F(IoApicTest, RoutesAreToldOnlyWhenTheyChange) {
  for (std::uint32_t pin = 0; pin < IoApic::kPins; ++pin) set_entry(pin, kMasked);
  EXPECT_EQ(sink_.updates, 0);
  set_entry(5, 0x31);
  EXPECT_EQ(sink_.updates, 1);
  set_entry(5, 0x31);
  EXPECT_EQ(sink_.updates, 1);
  set_entry(5, kMasked | 0x31);
  EXPECT_EQ(sink_.updates, 2);
  EXPECT_FALSE(sink_.routes[5]);
}

TEST_F(IoApicTest, AnEdgeSendsOnce) {
  set_entry(5, 0x31);
  apic_.set_line(5, true);
  apic_.set_line(5, true);
  EXPECT_EQ(sink_.sent.size(), 1U);
  apic_.set_line(5, false);
  EXPECT_EQ(sink_.sent.size(), 1U);
  apic_.set_line(5, true);
  ASSERT_EQ(sink_.sent.size(), 2U);
  EXPECT_EQ(sink_.sent[1].data, 0x31U);
  EXPECT_EQ(entry(5), 0x31U);
}

TEST_F(IoApicTest, AnEdgeAtAMaskedPinIsLost) {
  set_entry(5, kMasked | 0x31);
  apic_.set_line(5, true);
  set_entry(5, 0x31);
  EXPECT_TRUE(sink_.sent.empty());
}

TEST_F(IoApicTest, ALevelIsSentUntilItFalls) {
  set_entry(9, kLevel | 0x41);
  apic_.set_line(9, true);
  ASSERT_EQ(sink_.sent.size(), 1U);
  EXPECT_EQ(sink_.sent[0].data, 0xc041U);
  EXPECT_EQ(entry(9), kLevel | kRemoteIrr | 0x41);
  apic_.set_line(9, true);
  EXPECT_EQ(sink_.sent.size(), 1U);
  apic_.end_of_interrupt(0x40);  // another one's
  EXPECT_EQ(sink_.sent.size(), 1U);
  apic_.end_of_interrupt(0x41);
  EXPECT_EQ(sink_.sent.size(), 2U);
  EXPECT_EQ(entry(9), kLevel | kRemoteIrr | 0x41);
  apic_.set_line(9, false);
  apic_.end_of_interrupt(0x41);
  EXPECT_EQ(sink_.sent.size(), 2U);
  EXPECT_EQ(entry(9), kLevel | 0x41);
}

TEST_F(IoApicTest, ALevelAtAMaskedPinWaits) {
  set_entry(9, kMasked | kLevel | 0x41);
  apic_.set_line(9, true);
  EXPECT_TRUE(sink_.sent.empty());
  set_entry(9, kLevel | 0x41);
  EXPECT_EQ(sink_.sent.size(), 1U);
  // Masked while it is served: the end comes, and the next one waits again.
  set_entry(9, kMasked | kLevel | 0x41);
  apic_.end_of_interrupt(0x41);
  EXPECT_EQ(sink_.sent.size(), 1U);
  set_entry(9, kLevel | 0x41);
  EXPECT_EQ(sink_.sent.size(), 2U);
}

// Of two pins with one vector, each has its own end.
TEST_F(IoApicTest, SharedVector) {
  set_entry(9, kLevel | 0x41);
  set_entry(10, kLevel | 0x41);
  apic_.set_line(9, true);
  apic_.set_line(10, true);
  apic_.set_line(9, false);
  apic_.end_of_interrupt(0x41);
  EXPECT_EQ(sink_.sent.size(), 3U);
  EXPECT_EQ(entry(9), kLevel | 0x41);
  EXPECT_EQ(entry(10), kLevel | kRemoteIrr | 0x41);
}

TEST_F(IoApicTest, TheEoiRegisterEnds) {
  set_entry(9, kLevel | 0x41);
  apic_.set_line(9, true);
  write_register(apic_, 0x40, 0x41, 4);
  EXPECT_EQ(sink_.sent.size(), 2U);
}

TEST_F(IoApicTest, AnEdgeHasNoRemoteIrr) {
  set_entry(9, kLevel | 0x41);
  apic_.set_line(9, true);
  apic_.set_line(9, false);
  set_entry(9, kMasked | 0x41);
  EXPECT_EQ(entry(9), kMasked | 0x41);
  apic_.end_of_interrupt(0x41);
  EXPECT_EQ(sink_.sent.size(), 1U);
}

}  // namespace
}  // namespace ktstr::kvm
