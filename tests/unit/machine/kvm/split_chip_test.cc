// Interrupts through our own I/O APIC to local APICs of KVM, with a guest that takes them.
#include <linux/kvm.h>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint64_t kHandler = 0x103000;
constexpr std::uint64_t kIdt = 0x115000;
constexpr std::uint64_t kIdtPointer = 0x116000;
constexpr std::uint64_t kInterrupts = kData;  // of each vCPU
constexpr std::uint64_t kReady = kData + 64;
constexpr std::uint8_t kVector = 0x41;
// x2APIC registers.
constexpr std::uint32_t kEoi = 0x80b, kSpurious = 0x80f;
constexpr std::uint64_t kLevel = 1 << 15;

bool has_split_chip() {
  const auto vm = Vm::create();
  return vm && vm->capability(KVM_CAP_SPLIT_IRQCHIP) != 0 && vm->capability(KVM_CAP_X2APIC_API) != 0;
}

// All vCPUs wait for interrupts and count them.
void put_waiters(TinyGuest& guest) {
  MachineCode code(kCode);
  code.mov_rbx(kIdtPointer).lidt_rbx().write_msr(kSpurious, 0x1ff).increment_own(kReady);
  const std::uint64_t loop = code.here();
  guest.put(code.sti().hlt().jmp(loop), kCode);
  guest.put(MachineCode(kHandler).increment_own(kInterrupts).write_msr(kEoi, 0).iretq(), kHandler);
  // A 64-bit interrupt gate (Intel SDM vol. 3A, 6.14.1).
  const std::uint64_t low = (kHandler & 0xffff) | std::uint64_t{0x10} << 16 | std::uint64_t{0x8e00} << 32 |
                            (kHandler >> 16 & 0xffff) << 48;
  guest.set_number(kIdt + 16 * kVector, low);
  guest.set_number(kIdt + 16 * kVector + 8, kHandler >> 32);
  // lidt's operand: 16 bits of limit, 64 of address.
  guest.set_number(kIdtPointer, 0xfff | kIdt << 16);
  guest.set_number(kIdtPointer + 8, kIdt >> 48);
}

void set_entry(TinyGuest& guest, std::uint32_t pin, std::uint64_t entry) {
  const auto set = [&guest](std::uint32_t index, std::uint32_t value) {
    guest.guest->io_apic->write(0, std::as_bytes(std::span(&index, 1)));
    guest.guest->io_apic->write(0x10, std::as_bytes(std::span(&value, 1)));
  };
  set(0x11 + 2 * pin, static_cast<std::uint32_t>(entry >> 32));
  set(0x10 + 2 * pin, static_cast<std::uint32_t>(entry));
}

// As Linux writes it: bits 8 to 14 of an APIC id apart.
std::uint64_t destination(std::uint64_t id) {
  return (id & 0xff) << 56 | (id >> 8 & 0x7f) << 49;
}

TEST(SplitChip, ALineReachesACpuWithALongId) {
  NEEDS_KVM();
  if (!has_split_chip()) GTEST_SKIP() << "this KVM has no split interrupt chip";
  TinyGuest guest({.vcpus = 2, .split_chip = true, .apic_id_step = 300});
  put_waiters(guest);
  guest.start();
  guest.go();
  ASSERT_TRUE(guest.wait_number(kReady, 1));
  ASSERT_TRUE(guest.wait_number(kReady + 8, 1));
  // The serial port's line is an eventfd that KVM turns into the message.
  for (std::uint64_t i = 1; i <= 20; ++i) {
    const std::uint32_t cpu = i % 2;
    set_entry(guest, kSerialGsi, destination(300 * cpu) | kVector);
    const std::uint64_t before = guest.number_at(kInterrupts + 8 * cpu);
    guest.guest->serial_line->trigger();
    ASSERT_TRUE(guest.wait_number(kInterrupts + 8 * cpu, before + 1)) << i;
  }
  ASSERT_TRUE(guest.hold().missing.empty());
  EXPECT_FALSE(guest.ended());
  EXPECT_EQ(guest.number_at(kInterrupts), 10U);
  EXPECT_EQ(guest.number_at(kInterrupts + 8), 10U);
}

// The CPU's end of interrupt comes to us, and the line that is still up interrupts again.
TEST(SplitChip, ALevelInterruptsUntilItFalls) {
  NEEDS_KVM();
  if (!has_split_chip()) GTEST_SKIP() << "this KVM has no split interrupt chip";
  TinyGuest guest({.split_chip = true});
  put_waiters(guest);
  guest.start();
  guest.go();
  ASSERT_TRUE(guest.wait_number(kReady, 1));
  set_entry(guest, kSciGsi, destination(0) | kLevel | kVector);
  guest.guest->io_apic->set_line(kSciGsi, true);
  ASSERT_TRUE(guest.wait_number(kInterrupts, 1));
  // A KVM that is software only keeps the end to itself.
  const auto until = std::chrono::steady_clock::now() + 1s;
  while (guest.count("io-apic") == 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  if (guest.count("io-apic") == 0) GTEST_SKIP() << "this KVM does not tell the end of an interrupt";
  ASSERT_TRUE(guest.wait_number(kInterrupts, 5));
  guest.guest->io_apic->set_line(kSciGsi, false);
  ASSERT_TRUE(guest.hold().missing.empty());
  EXPECT_FALSE(guest.ended());
  EXPECT_GE(guest.count("io-apic"), 4U);
}

TEST(SplitChip, TheGuestWritesTheRegisters) {
  NEEDS_KVM();
  if (!has_split_chip()) GTEST_SKIP() << "this KVM has no split interrupt chip";
  TinyGuest guest({.split_chip = true});
  MachineCode code(kCode);
  code.store32(kIoApicGpa, 0x1a).store32(kIoApicGpa + 0x10, 0x18041);
  code.store32(kIoApicGpa, 1).mov_rbx(kIoApicGpa + 0x10).load_eax_rbx().mov_rbx(kData).store_rbx_eax();
  code.store32(kIoApicGpa, 0x1a).mov_rbx(kIoApicGpa + 0x10).load_eax_rbx();
  guest.put(code.mov_rbx(kData + 8).store_rbx_eax().power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
  EXPECT_EQ(guest.number_at(kData), 0x00170020U);
  EXPECT_EQ(guest.number_at(kData + 8), 0x18041U);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
