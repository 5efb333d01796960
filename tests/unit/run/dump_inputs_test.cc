// What dumps and machines are made from: registers of cores, CPU features.
#include <gtest/gtest.h>

#include "host/run/core_registers.h"
#include "host/run/cpu_flags.h"
#include "host/run/host_use_options.h"

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
  registers.halted = true;
  EXPECT_FALSE(from_core(to_core(registers)).halted);  // a core does not say it
}

TEST(HostUse, IsTheUsualOneUnlessAskedFor) {
  const auto use = resolve_host_use({}, AccelChoice::kTcg, 4);
  ASSERT_TRUE(use) << use.error().to_string();
  EXPECT_EQ(*use, HostUse());
  v1::MachineSpec machine;
  describe_host_use(*use, machine);
  EXPECT_FALSE(machine.has_host_use());
}

TEST(HostUse, PinsEachVcpu) {
  RunRequest request;
  request.pages = RamPages::kTransparent;
  request.pin_vcpus = "2,5";
  request.vcpu_fifo = 7;
  const CpuSet allowed({1, 2, 5, 9});
  auto use = resolve_host_use(request, AccelChoice::kKvm, 2, allowed);
  ASSERT_TRUE(use) << use.error().to_string();
  EXPECT_EQ(*use, (HostUse{.pages = RamPages::kTransparent, .vcpu_cpus = {2, 5}, .fifo_priority = 7}));
  v1::MachineSpec machine;
  describe_host_use(*use, machine);
  EXPECT_EQ(machine.host_use().pages(), v1::MachineSpec::HostUse::TRANSPARENT);
  EXPECT_EQ(machine.host_use().vcpu_cpus(1), 5u);
  EXPECT_EQ(machine.host_use().fifo_priority(), 7u);
  request.pin_vcpus = "all";
  use = resolve_host_use(request, AccelChoice::kKvm, 3, allowed);
  ASSERT_TRUE(use) << use.error().to_string();
  EXPECT_EQ(use->vcpu_cpus, (std::vector<std::uint32_t>{1, 2, 5}));
}

TEST(HostUse, SaysWhatCannotBe) {
  const CpuSet allowed({0, 1});
  const auto error = [&](const char* pins, AccelChoice kind, std::uint32_t vcpus) {
    RunRequest request;
    request.pin_vcpus = pins;
    const auto use = resolve_host_use(request, kind, vcpus, allowed);
    return use ? "no error" : use.error().to_string();
  };
  EXPECT_NE(error("0-1", AccelChoice::kTcg, 2).find("--pin-vcpus is for the kvm machine"), std::string::npos);
  EXPECT_NE(error("0", AccelChoice::kKvm, 2).find("1 host CPUs for 2 vCPUs"), std::string::npos);
  EXPECT_NE(error("0-1", AccelChoice::kKvm, 1).find("2 host CPUs for 1 vCPUs"), std::string::npos);
  EXPECT_NE(error("all", AccelChoice::kKvm, 3).find("2 host CPUs for 3 vCPUs"), std::string::npos);
  EXPECT_NE(error("1-2", AccelChoice::kKvm, 2).find("may use the host's CPUs 0-1 only"), std::string::npos);
  EXPECT_NE(error("x", AccelChoice::kKvm, 2).find("--pin-vcpus"), std::string::npos);
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
