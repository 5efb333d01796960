#include "host/machine/tcg/register_text.h"

#include <string>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

// What QEMU 10 prints for a vCPU in 64-bit kernel mode, without its vector registers.
constexpr const char* kLongMode =
    "\r\nCPU#0\r\n"
    "RAX=0000000000000001 RBX=ffff88801f0c0000 RCX=0000000000000003 RDX=0000000000000004\r\n"
    "RSI=0000000000000005 RDI=0000000000000006 RBP=ffffffff82a03e88 RSP=ffffffff82a03e80\r\n"
    "R8 =0000000000000008 R9 =0000000000000009 R10=0000000000000010 R11=0000000000000011\r\n"
    "R12=0000000000000012 R13=0000000000000013 R14=0000000000000014 R15=0000000000000015\r\n"
    "RIP=ffffffff81f1c2cb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n"
    "ES =0000 0000000000000000 00000000 00000000\r\n"
    "CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\r\n"
    "SS =0018 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]\r\n"
    "DS =0000 0000000000000000 00000000 00000000\r\n"
    "FS =0000 00007f1122334455 00000000 00000000\r\n"
    "GS =0000 ffff88801f000000 00000000 00000000\r\n"
    "LDT=0000 0000000000000000 00000000 00008200 DPL=0 LDT\r\n"
    "TR =0040 fffffe0000003000 00004087 00008b00 DPL=0 TSS64-busy\r\n"
    "GDT=     fffffe0000001000 0000007f\r\n"
    "IDT=     fffffe0000000000 00000fff\r\n"
    "CR0=80050033 CR2=00007ffe10dd2ff8 CR3=0000000002a10000 CR4=000006f0\r\n"
    "DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 \r\n"
    "DR6=00000000ffff0ff0 DR7=0000000000000400\r\n"
    "CCS=0000000000000044 CCD=0000000000000000 CCO=LOGICQ\r\n"
    "EFER=0000000000000d01\r\n"
    "FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80\r\n";

TEST(RegisterText, LongMode) {
  const auto regs = parse_register_text(kLongMode);
  ASSERT_TRUE(regs) << regs.error().to_string();
  EXPECT_EQ(regs->rax, 1U);
  EXPECT_EQ(regs->rbx, 0xffff88801f0c0000U);
  EXPECT_EQ(regs->rsp, 0xffffffff82a03e80U);
  EXPECT_EQ(regs->r8, 8U);
  EXPECT_EQ(regs->r9, 9U);
  EXPECT_EQ(regs->r15, 0x15U);
  EXPECT_EQ(regs->rip, 0xffffffff81f1c2cbU);
  EXPECT_EQ(regs->rflags, 0x246U);
  EXPECT_EQ(regs->cs, 0x10U);
  EXPECT_EQ(regs->ss, 0x18U);
  EXPECT_EQ(regs->fs_base, 0x00007f1122334455U);
  EXPECT_EQ(regs->gs_base, 0xffff88801f000000U);
  EXPECT_EQ(regs->gdt_base, 0xfffffe0000001000U);
  EXPECT_EQ(regs->gdt_limit, 0x7fU);
  EXPECT_EQ(regs->idt_base, 0xfffffe0000000000U);
  EXPECT_EQ(regs->idt_limit, 0xfffU);
  EXPECT_EQ(regs->cr0, 0x80050033U);
  EXPECT_EQ(regs->cr2, 0x00007ffe10dd2ff8U);
  EXPECT_EQ(regs->cr3, 0x2a10000U);
  EXPECT_EQ(regs->cr4, 0x6f0U);
  EXPECT_EQ(regs->efer, 0xd01U);
  EXPECT_EQ(regs->halted, true);
}

TEST(RegisterText, OutsideOfLongMode) {
  const auto regs = parse_register_text(
      "EAX=00000001 EBX=00000002 ECX=00000003 EDX=00000663\n"
      "ESI=00000005 EDI=00000006 EBP=00000007 ESP=00000008\n"
      "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\n"
      "ES =0000 00000000 0000ffff 00009300\nCS =f000 ffff0000 0000ffff 00009b00\n"
      "SS =0000 00000000 0000ffff 00009300\nFS =0000 00000000 0000ffff 00009300\n"
      "GS =0000 00000000 0000ffff 00009300\nGDT=     00000000 0000ffff\nIDT=     00000000 0000ffff\n"
      "CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000\nEFER=0000000000000000\n");
  ASSERT_TRUE(regs) << regs.error().to_string();
  EXPECT_EQ(regs->rip, 0xfff0U);
  EXPECT_EQ(regs->cs, 0xf000U);
  EXPECT_EQ(regs->rdx, 0x663U);
  EXPECT_EQ(regs->r8, 0U);
  EXPECT_EQ(regs->halted, false);
}

TEST(RegisterText, AMissingRegisterIsNamed) {
  std::string text = kLongMode;
  text.replace(text.find("IDT="), 4, "XDT=");
  const auto regs = parse_register_text(text);
  ASSERT_FALSE(regs);
  EXPECT_NE(regs.error().to_string().find("IDT"), std::string::npos);
}

TEST(RegisterText, ANumberThatIsTooLongIsRefused) {
  std::string text = kLongMode;
  text.replace(text.find("RAX="), 4, "RAX=00000000000000001");
  EXPECT_FALSE(parse_register_text(std::string(text).replace(text.find("RAX=") + 4, 1, "f")));
}

TEST(RegisterText, EveryTruncationIsAnErrorOrAnAnswer) {
  const std::string text = kLongMode;
  const std::size_t last_needed = text.find("FCW=");
  for (std::size_t length = 0; length < text.size(); ++length) {
    const auto regs = parse_register_text(std::string_view(text).substr(0, length));
    EXPECT_TRUE(!regs || length >= last_needed - 20) << length;
  }
}

TEST(RegisterText, DamagedBytesNeverCrash) {
  const std::string text = kLongMode;
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (const char c : {'\0', '=', 'f', ' ', '\xff'}) {
      std::string damaged = text;
      damaged[at] = c;
      (void)parse_register_text(damaged);
    }
  }
}

TEST(RegisterText, TooMuchTextIsRefused) {
  EXPECT_FALSE(parse_register_text(kLongMode + std::string(kMaxRegisterText, ' ')));
  EXPECT_FALSE(parse_register_text(""));
}

}  // namespace
}  // namespace ktstr
