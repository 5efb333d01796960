// A vCPU's registers of every kind, out of one VM and into another one.
#include "host/machine/kvm/vcpu_state.h"

#include <linux/kvm.h>

#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "host/machine/kvm/kvm_call.h"
#include "proto/kvm_state.pb.h"
#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {
namespace {

// Parts of the processor's format (Intel SDM vol. 1, 13.4): SSE registers, header, upper halves of AVX
// registers.
constexpr std::size_t kSse = 160, kHeader = 512, kAvx = 576, kRegisters = 256;
constexpr std::uint64_t kX87Part = 1, kSsePart = 2, kAvxPart = 4;

std::uint64_t vector_parts(TinyGuest& guest) {
  const auto cpuid = guest.guest->vm.supported_cpuid();
  for (const kvm_cpuid_entry2& leaf : cpuid.value())
    if (leaf.function == 0xd && leaf.index == 0) return leaf.eax & (kX87Part | kSsePart | kAvxPart);
  return 0;
}

TEST(VcpuState, RegistersOfEveryKindComeBack) {
  NEEDS_KVM();
  TinyGuest one, other;
  Vcpu& vcpu = one.vcpu(0);
  const std::uint64_t parts = vector_parts(one);
  std::string xsave(
      std::max<std::size_t>(kXsaveBytes, static_cast<std::size_t>(one.guest->vm.capability(KVM_CAP_XSAVE2))),
      '\0');
  if (parts != 0) {
    kvm_xcrs xcrs = {};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = parts;
    ASSERT_TRUE(KVM_CALL(vcpu.fd(), KVM_SET_XCRS, &xcrs));
    const std::uint16_t control = 0x37f;
    const std::uint32_t mxcsr = 0x1f80;
    std::memcpy(xsave.data(), &control, sizeof(control));
    std::memcpy(xsave.data() + 24, &mxcsr, sizeof(mxcsr));
    for (std::size_t i = 0; i < kRegisters; ++i) {
      xsave[kSse + i] = static_cast<char>(i + 1);
      if ((parts & kAvxPart) != 0) xsave[kAvx + i] = static_cast<char>(3 * i + 1);
    }
    std::memcpy(xsave.data() + kHeader, &parts, sizeof(parts));
    const auto set = KVM_CALL(vcpu.fd(), KVM_SET_XSAVE, xsave.data());
    ASSERT_TRUE(set) << set.error().to_string();
  }
  kvm_debugregs debug = {};
  debug.db[0] = 0x1234;
  debug.db[3] = 0x5678;
  debug.dr6 = 0xffff0ff0;
  debug.dr7 = 0x400;
  ASSERT_TRUE(KVM_CALL(vcpu.fd(), KVM_SET_DEBUGREGS, &debug));
  kvm_vcpu_events events = {};
  events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
  events.nmi.pending = 1;
  ASSERT_TRUE(KVM_CALL(vcpu.fd(), KVM_SET_VCPU_EVENTS, &events));
  kvm_regs regs = vcpu.general_registers().value();
  regs.r12 = 0x1212121212121212;
  regs.rflags |= 0x800;
  ASSERT_TRUE(vcpu.set_general_registers(regs));
  ASSERT_TRUE(vcpu.set_msr(0xc0000082, 0xffffffff81234567));  // LSTAR
  ASSERT_TRUE(vcpu.set_msr(0x200, 0x80000006));               // the first range of memory types
  kvm_mp_state halted = {.mp_state = KVM_MP_STATE_HALTED};
  ASSERT_TRUE(KVM_CALL(vcpu.fd(), KVM_SET_MP_STATE, &halted));

  v1::KvmVcpuState saved;
  const auto done = save_vcpu(one.guest->vm, vcpu, saved);
  ASSERT_TRUE(done) << done.error().to_string();
  if (parts != 0) {
    EXPECT_EQ(saved.xsave().substr(kSse, kRegisters), xsave.substr(kSse, kRegisters));
    EXPECT_EQ(saved.xsave().substr(kAvx, kRegisters), xsave.substr(kAvx, kRegisters));
  }
  const auto loaded = load_vcpu(other.guest->vm, other.vcpu(0), saved);
  ASSERT_TRUE(loaded) << loaded.error().to_string();
  v1::KvmVcpuState again;
  ASSERT_TRUE(save_vcpu(other.guest->vm, other.vcpu(0), again));
  EXPECT_EQ(again.xsave(), saved.xsave());
  EXPECT_EQ(again.xcrs(), saved.xcrs());
  EXPECT_EQ(again.debug_regs(), saved.debug_regs());
  EXPECT_EQ(again.events(), saved.events());
  EXPECT_EQ(again.regs(), saved.regs());
  EXPECT_EQ(again.sregs(), saved.sregs());
  EXPECT_EQ(again.lapic(), saved.lapic());
  EXPECT_EQ(again.mp_state(), saved.mp_state());
  EXPECT_EQ(other.vcpu(0).msr(0xc0000082).value_or(0), 0xffffffff81234567U);
  EXPECT_EQ(other.vcpu(0).msr(0x200).value_or(0), 0x80000006U);
  EXPECT_EQ(other.vcpu(0).registers().value().halted, true);
  kvm_vcpu_events other_events = {};
  ASSERT_TRUE(KVM_CALL(other.vcpu(0).fd(), KVM_GET_VCPU_EVENTS, &other_events));
  EXPECT_EQ(other_events.nmi.pending, 1U);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
