// What dumps and machines are made from: registers of cores, CPU features.
#include <gtest/gtest.h>

#include "host/run/core_registers.h"
#include "host/run/cpu_flags.h"

namespace ktstr {
namespace {

TEST(CoreRegisters, ComeBackAsTheyWere) {
  VcpuRegisters registers;
  std::uint64_t next = 0x1111;
  for (std::uint64_t* member :
       {&registers.rax,     &registers.rbx,    &registers.rcx,     &registers.rdx,
        &registers.rsi,     &registers.rdi,    &registers.rbp,     &registers.rsp,
        &registers.r8,      &registers.r9,     &registers.r10,     &registers.r11,
        &registers.r12,     &registers.r13,    &registers.r14,     &registers.r15,
        &registers.rip,     &registers.rflags, &registers.cr0,     &registers.cr2,
        &registers.cr3,     &registers.cr4,    &registers.gs_base, &registers.kernel_gs_base,
        &registers.idt_base})
    *member = next += 0x1111;
  registers.idt_limit = 0xfff;
  registers.cs = 0x10;
  EXPECT_EQ(from_core(to_core(registers)), registers);
  EXPECT_EQ(to_core(registers).general[5], registers.rdi);
  EXPECT_EQ(from_core(VcpuRegistersOfCore()), VcpuRegisters());
}

TEST(CpuFlags, AreSignedNames) {
  EXPECT_EQ(parse_cpu_flags("").value(), std::vector<std::string>());
  EXPECT_EQ(parse_cpu_flags("+la57").value(), std::vector<std::string>{"+la57"});
  EXPECT_EQ(parse_cpu_flags("+la57,-avx2,+sse4.1").value(),
            (std::vector<std::string>{"+la57", "-avx2", "+sse4.1"}));
}

TEST(CpuFlags, NothingElse) {
  std::string many = "+a";
  for (int i = 0; i < 64; ++i) many += ",+a";
  for (const std::string& text :
       {std::string("la57"), std::string("+"), std::string("+la57,"), std::string(",+la57"),
        std::string("+a=b"), std::string("+A"), std::string("+a b"), std::string("+a\n"), std::string("--a"),
        "+" + std::string(40, 'a'), many}) {
    const auto flags = parse_cpu_flags(text);
    ASSERT_FALSE(flags) << text;
    EXPECT_EQ(flags.error().code(), ErrorCode::kUsage);
    EXPECT_NE(flags.error().to_string().find("--cpu-flags"), std::string::npos);
  }
}

}  // namespace
}  // namespace ktstr
