// Guest programs that use devices, and the ways in which a guest ends.
#include <linux/kvm.h>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {
namespace {

TEST(DevicesRun, SerialOutputComesOut) {
  NEEDS_KVM();
  TinyGuest guest;
  MachineCode code(kCode);
  for (const char c : std::string_view("hello")) code.out8(kSerialPort, static_cast<std::uint8_t>(c));
  guest.put(code.power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff);
  EXPECT_EQ(guest.guest->serial->take_output(), "hello");
  EXPECT_EQ(guest.count("serial"), 5U);
}

// The string form comes as one exit with several bytes.
TEST(DevicesRun, StringOutputToTheSerialPort) {
  NEEDS_KVM();
  TinyGuest guest;
  const std::string_view text = "a string of bytes";
  guest.put(kData, {text.begin(), text.end()});
  MachineCode code(kCode);
  code.mov_dx(kSerialPort).mov_ecx(static_cast<std::uint32_t>(text.size()));
  code.raw({0x48, 0xbe, 0x00, 0x00, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00});  // mov $kData, %rsi
  code.raw({0xf3, 0x6e});                                                  // rep outsb
  guest.put(code.power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
  EXPECT_EQ(guest.guest->serial->take_output(), text);
}

TEST(DevicesRun, MemoryMappedRegistersAreReadAndWritten) {
  NEEDS_KVM();
  TinyGuest guest;
  MachineCode code(kCode);
  // Magic and version, then a write that can be read back: the driver's ACKNOWLEDGE.
  code.mov_rbx(kVirtioMmioGpa).load_eax_rbx().mov_rbx(kData).store_rbx_eax();
  code.store32(kVirtioMmioGpa + 0x70, 1);
  code.mov_rbx(kVirtioMmioGpa + 0x70).load_eax_rbx().mov_rbx(kData + 8).store_rbx_eax();
  guest.put(code.power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
  EXPECT_EQ(guest.number_at(kData), 0x74726976U);  // "virt"
  EXPECT_EQ(guest.number_at(kData + 8), 1U);
  EXPECT_EQ(guest.guest->console_registers->state().status, 1U);
  EXPECT_EQ(guest.count("virtio-console"), 3U);
}

TEST(DevicesRun, WhatNobodyAnswersIsAllOnes) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.set_number(kData, 0);
  MachineCode code(kCode);
  code.mov_rax(0).mov_dx(0x1234).in_eax_dx().mov_rbx(kData).store_rbx_rax();
  code.mov_rax(0).mov_rbx(0xd1000000).load_eax_rbx().mov_rbx(kData + 8).store_rbx_rax();
  code.mov_dx(0x1234).out_dx_eax().store32(0xd1000000, 7);
  guest.put(code.power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
  EXPECT_EQ(guest.number_at(kData), 0xffffffffU);
  EXPECT_EQ(guest.number_at(kData + 8), 0xffffffffU);
  EXPECT_EQ(guest.count("nobody"), 4U);
}

TEST(DevicesRun, AWriteToTheTrapsPortThatIsNoTrap) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.put(MachineCode(kCode).mov_al(1).raw({0xe6, 0xf4}).power_off(), kCode);  // out %al, $0xf4
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
  EXPECT_EQ(guest.count("nobody"), 1U);
  EXPECT_EQ(guest.count("trap"), 0U);
}

TEST(DevicesRun, TheKeyboardControllerResets) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.put(MachineCode(kCode).out8(kI8042Command, 0xfe).halt_for_ever(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kReset);
}

TEST(DevicesRun, AHaltedVcpuIsHeldAndSaidToBeHalted) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.put(MachineCode(kCode).increment(kData).halt_for_ever(), kCode);
  guest.start();
  guest.go();
  ASSERT_TRUE(guest.wait_number(kData, 1));
  // The increment comes before the halt: a few tries until it is there.
  VcpuRegisters regs;
  for (int i = 0; i < 1000 && regs.halted != true; ++i) {
    ASSERT_TRUE(guest.hold().missing.empty());
    regs = guest.vcpu(0).registers().value();
    guest.go();
    std::this_thread::yield();
  }
  EXPECT_EQ(regs.halted, true);
  EXPECT_GE(regs.rip, kCode);
  EXPECT_LT(regs.rip, kFunction);
}

TEST(DevicesRun, ATripleFaultEndsWithRegisters) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.set_number(kData, 0);
  // An empty interrupt table, then an exception.
  guest.put(MachineCode(kCode).mov_rax(0x1122334455667788).mov_rbx(kData).lidt_rbx().ud2(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kTripleFault) << end->detail;
  // AMD's processors have no registers left.
  if (end->detail.find("this host's KVM has reset it") != std::string::npos) {
    EXPECT_NE(end->detail.find("rip 0xfff0"), std::string::npos) << end->detail;
    return;
  }
  EXPECT_NE(end->detail.find("rip 0x1000"), std::string::npos) << end->detail;
  EXPECT_NE(end->detail.find("rax 0x1122334455667788"), std::string::npos) << end->detail;
}

// What KVM cannot go on with has the bytes of the instruction in its message.
TEST(DevicesRun, AnInstructionThatKvmCannotEmulateIsNamed) {
  NEEDS_KVM();
  TinyGuest guest;
  // An instruction fetch from where there is no RAM.
  guest.put(MachineCode(kCode).mov_rax(0xd2000000).raw({0xff, 0xe0}), kCode);  // jmp *%rax
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kFailed) << end->detail;
  EXPECT_NE(end->detail.find("KVM_EXIT_INTERNAL_ERROR on vCPU 0, suberror 1"), std::string::npos)
      << end->detail;
  EXPECT_NE(end->detail.find("rip 0xd2000000"), std::string::npos) << end->detail;
}

// A vector instruction on a device's register: neither a processor nor KVM's emulator does that for us.
TEST(DevicesRun, AVectorAccessToADeviceIsNamed) {
  NEEDS_KVM();
  TinyGuest guest;
  MachineCode code(kCode);
  code.mov_rbx(kVirtioMmioGpa);
  const std::uint64_t at = code.here();
  code.raw({0x66, 0x0f, 0x38, 0x00, 0x03});  // pshufb (%rbx), %xmm0
  guest.put(code.power_off(), kCode);
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_NE(end->end, GuestEnd::kPoweredOff);
  if (end->end != GuestEnd::kFailed) GTEST_SKIP() << "this KVM gives the guest an exception: " << end->detail;
  EXPECT_NE(end->detail.find("66 0f 38 00 03"), std::string::npos) << end->detail;
  EXPECT_EQ(guest.vcpu(0).registers().value().rip, at);
}

TEST(DevicesRun, AKvmRunThatFailsEndsTheGuest) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.put(MachineCode(kCode).spin_for_ever(), kCode);
  // No such register set: KVM_RUN is refused.
  guest.vcpu(0).run().kvm_valid_regs = ~std::uint64_t{0};
  const auto end = guest.run();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kFailed);
  EXPECT_NE(end->detail.find("KVM_RUN of vCPU 0: Invalid argument"), std::string::npos) << end->detail;
}

// Exits that a guest cannot bring about on this host, as KVM reports them.
class MadeUpExit : public testing::Test {
 protected:
  // The first exit is replaced.
  std::optional<End> run(const std::function<void(kvm_run&)>& report) {
    guest_ = std::make_unique<TinyGuest>();
    guest_->put(MachineCode(kCode).out8(0x1234, 1).power_off(), kCode);
    guest_->start([report, done = false](Vcpu& vcpu, int) mutable -> std::optional<VcpuThreads::Next> {
      if (!std::exchange(done, true)) report(vcpu.run());
      return std::nullopt;
    });
    guest_->go();
    auto end = guest_->wait_end();
    guest_->hold();
    return end;
  }

  std::unique_ptr<TinyGuest> guest_;
};

TEST_F(MadeUpExit, EntryFailure) {
  NEEDS_KVM();
  const auto end = run([](kvm_run& run) {
    run.exit_reason = KVM_EXIT_FAIL_ENTRY;
    run.fail_entry.hardware_entry_failure_reason = 0x80000021;
  });
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kFailed);
  EXPECT_NE(end->detail.find("refused to enter vCPU 0: hardware reason 0x80000021; rip"), std::string::npos)
      << end->detail;
}

TEST_F(MadeUpExit, EmulationFailureWithItsBytes) {
  NEEDS_KVM();
  const auto end = run([](kvm_run& run) {
    run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run.emulation_failure = {};
    run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
    run.emulation_failure.ndata = 4;
    run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    run.emulation_failure.insn_size = 200;  // more than there is room for
    run.emulation_failure.insn_bytes[0] = 0xc4;
  });
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kFailed);
  EXPECT_NE(end->detail.find("cannot emulate the instruction c4 00"), std::string::npos) << end->detail;
  EXPECT_LT(end->detail.size(), 1000U);
}

// An exit "while delivering an event" without an event: run again.
TEST_F(MadeUpExit, DeliveryWithoutAnEventIsRunAgain) {
  NEEDS_KVM();
  const auto end = run([](kvm_run& run) {
    run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run.internal = {};
    run.internal.suberror = 3;
  });
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kPoweredOff) << end->detail;
  EXPECT_EQ(guest_->count("retried"), 1U);
}

TEST_F(MadeUpExit, AReasonThatNobodyKnows) {
  NEEDS_KVM();
  const auto end = run([](kvm_run& run) { run.exit_reason = 4711; });
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, GuestEnd::kFailed);
  EXPECT_NE(end->detail.find("4711"), std::string::npos) << end->detail;
}

TEST_F(MadeUpExit, SystemEvents) {
  NEEDS_KVM();
  const auto event = [this](std::uint32_t type) {
    const auto end = run([type](kvm_run& run) {
      run.exit_reason = KVM_EXIT_SYSTEM_EVENT;
      run.system_event.type = type;
    });
    return end ? std::optional(end->end) : std::nullopt;
  };
  EXPECT_EQ(event(KVM_SYSTEM_EVENT_SHUTDOWN), GuestEnd::kPoweredOff);
  EXPECT_EQ(event(KVM_SYSTEM_EVENT_RESET), GuestEnd::kReset);
  EXPECT_EQ(event(99), GuestEnd::kFailed);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
