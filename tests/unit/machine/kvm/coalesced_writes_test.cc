// Serial output that KVM collects: nothing is lost, nothing changes its place.
#include "host/machine/kvm/coalesced_writes.h"

#include <linux/serial_reg.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint16_t port(std::uint16_t reg) {
  return static_cast<std::uint16_t>(kSerialPort + reg);
}

// A guest whose serial output is collected; false: this KVM cannot.
bool collect(TinyGuest& guest) {
  const auto done = guest.guest->coalesced.collect(guest.guest->vm, guest.vcpu(0), kSerialPort);
  EXPECT_TRUE(done) << done.error().to_string();
  return guest.guest->vm.capability(KVM_CAP_COALESCED_PIO) != 0;
}

// `times` times one letter.
MachineCode& repeat(MachineCode& code, char letter, std::uint32_t times) {
  code.mov_ecx(times).mov_dx(kSerialPort).mov_al(static_cast<std::uint8_t>(letter));
  const std::uint64_t loop = code.here();
  return code.out_dx_al().dec_ecx_jnz(loop);
}

TEST(CoalescedWrites, CostHardlyAnyExits) {
  NEEDS_KVM();
  TinyGuest guest;
  const bool collected = collect(guest);
  MachineCode code(kCode);
  guest.put(repeat(code, 'x', 1000).power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
  EXPECT_EQ(guest.guest->serial->take_output(), std::string(1000, 'x'));
  if (collected) {
    EXPECT_LE(guest.count("serial"), 10U);
  } else {
    EXPECT_EQ(guest.count("serial"), 1000U);
  }
}

// The same port is the lower half of the divisor while another register says so.
TEST(CoalescedWrites, StayInTheirPlaceAmongOtherAccesses) {
  NEEDS_KVM();
  TinyGuest guest;
  collect(guest);
  guest.set_number(kData, 0);
  MachineCode code(kCode);
  code.out8(kSerialPort, 'a').out8(port(UART_LCR), UART_LCR_DLAB).out8(kSerialPort, 0x42);
  code.mov_rax(0).mov_dx(kSerialPort).in_al_dx().mov_rbx(kData).store_rbx_al();
  code.out8(kSerialPort, 0x43).out8(port(UART_LCR), 3).out8(kSerialPort, 'b');
  guest.put(code.power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(guest.guest->serial->take_output(), "ab");
  EXPECT_EQ(guest.number_at(kData), 0x42U);
}

// The driver's interrupt handler finds the transmitter empty again after what it has just written.
TEST(CoalescedWrites, AreSeenByTheInterruptsCause) {
  NEEDS_KVM();
  TinyGuest guest;
  collect(guest);
  guest.set_number(kData, 0);
  MachineCode code(kCode);
  const auto read_cause = [&](std::uint64_t to) {
    code.mov_rax(0).mov_dx(port(UART_IIR)).in_al_dx().mov_rbx(to).store_rbx_al();
  };
  code.out8(port(UART_IER), UART_IER_THRI);
  read_cause(kData);
  read_cause(kData + 1);
  code.out8(kSerialPort, 'a');
  read_cause(kData + 2);
  guest.put(code.power_off(), kCode);
  ASSERT_TRUE(guest.run());
  EXPECT_EQ(guest.number_at(kData) & 0x0f0f0f,
            UART_IIR_THRI | UART_IIR_NO_INT << 8 | std::uint64_t{UART_IIR_THRI} << 16);
}

TEST(CoalescedWrites, TheLastWordsBeforeATripleFaultComeOut) {
  NEEDS_KVM();
  TinyGuest guest;
  collect(guest);
  MachineCode code(kCode);
  for (const char c : std::string_view("Oops")) code.out8(kSerialPort, static_cast<std::uint8_t>(c));
  guest.put(code.ud2(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_NE(end->end, GuestEnd::kPoweredOff);
  EXPECT_EQ(guest.guest->serial->take_output(), "Oops");
}

TEST(CoalescedWrites, OfAGuestThatNeverComesBackAreTakenFromOutside) {
  NEEDS_KVM();
  TinyGuest guest;
  collect(guest);
  guest.set_number(kData, 0);
  MachineCode code(kCode);
  for (const char c : std::string_view("stuck")) code.out8(kSerialPort, static_cast<std::uint8_t>(c));
  guest.put(code.increment(kData).spin_for_ever(), kCode);
  guest.start();
  guest.go();
  ASSERT_TRUE(guest.wait_number(kData, 1));
  guest.guest->coalesced.drain();
  EXPECT_EQ(guest.guest->serial->take_output(), "stuck");
  EXPECT_TRUE(guest.hold().missing.empty());
}

TEST(CoalescedWrites, OfSeveralVcpusAreAllThere) {
  NEEDS_KVM();
  constexpr std::uint32_t kTimes = 3000;
  TinyGuest guest({.vcpus = 2});
  collect(guest);
  guest.set_number(kData, 0);
  // Both run the same program; their counts end up in one number.
  MachineCode code(kCode);
  repeat(code, 'z', kTimes).mov_rbx(kData).raw({0xf0}).inc_at_rbx();  // lock
  guest.put(code.spin_for_ever(), kCode);
  guest.start();
  guest.go();
  std::string output;
  while (guest.number_at(kData) < 2 && !guest.ended()) {
    guest.guest->coalesced.drain();
    output += guest.guest->serial->take_output();
  }
  EXPECT_TRUE(guest.hold().missing.empty());
  guest.guest->coalesced.drain();
  output += guest.guest->serial->take_output();
  EXPECT_EQ(output.size(), 2 * kTimes);
  EXPECT_EQ(std::ranges::count(output, 'z'), std::ptrdiff_t{2 * kTimes});
}

}  // namespace
}  // namespace ktstr::kvm::tiny
