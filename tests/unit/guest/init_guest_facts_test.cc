#include <cstring>

#include <gtest/gtest.h>

#include "guest/init/environment.h"
#include "guest/init/guest_facts.h"
#include "guest/init/slowness.h"

namespace ktstr::guest {
namespace {

std::string note(std::uint32_t name_size, std::uint32_t desc_size, std::uint32_t type,
                 const std::string& rest) {
  std::string text(12, '\0');
  std::memcpy(text.data(), &name_size, 4);
  std::memcpy(text.data() + 4, &desc_size, 4);
  std::memcpy(text.data() + 8, &type, 4);
  return text + rest;
}

std::string build_id(const std::string& notes) {
  return build_id_from_notes(std::as_bytes(std::span(notes)));
}

TEST(BuildId, IsTheGnuNoteAmongOthers) {
  const std::string xen = note(4, 5, 3, std::string("Xen\0abcde\0\0\0", 12));
  const std::string gnu = note(4, 3, 3, std::string("GNU\0\x01\xab\xff\0", 8));
  EXPECT_EQ(build_id(xen + gnu), "01abff");
  EXPECT_EQ(build_id(xen), "");
  EXPECT_EQ(build_id(""), "");
}

TEST(BuildId, SurvivesHostileNotes) {
  EXPECT_EQ(build_id(note(0xffffffff, 0xffffffff, 3, "GNU")), "");
  EXPECT_EQ(build_id(note(4, 20, 3, std::string("GNU\0ab", 6))), "");
  EXPECT_EQ(build_id("short"), "");
  EXPECT_EQ(build_id(note(4, 0xfffffffd, 1, "abcd") + std::string(100, '\0')), "");
  EXPECT_EQ(build_id(std::string(4096, '\0')), "");
}

TEST(Vmcoreinfo, IsTwoHexadecimalNumbers) {
  EXPECT_EQ(parse_vmcoreinfo("0x0000000004709000 1024\n"), std::pair(0x4709000UL, 0x1024UL));
  EXPECT_EQ(parse_vmcoreinfo("4709000 1024"), std::pair(0x4709000UL, 0x1024UL));
  for (const char* text : {"", "x", "0x", "1234", "1234 ", "0 100", "123456789012345678901 1"}) {
    EXPECT_FALSE(parse_vmcoreinfo(text)) << text;
  }
}

TEST(Kallsyms, FindsWholeNamesOnly) {
  const std::string text =
      "ffffffff81000000 T _stext\nffffffff81000000 T _text\n0000000000000000 T hidden\nffffffffc0 t "
      "_text\t[mod]\n";
  EXPECT_EQ(find_kallsyms_address(text, "_text"), 0xffffffff81000000UL);
  EXPECT_FALSE(find_kallsyms_address(text, "_tex"));
  EXPECT_FALSE(find_kallsyms_address(text, "hidden"));
  EXPECT_FALSE(find_kallsyms_address("garbage\n\n \nffffffff81000000 T", "_text"));
}

TEST(Iomem, FindsTheKernelsCode) {
  EXPECT_EQ(find_kernel_code("00100000-3fffffff : System RAM\n  01000000-02001fff : Kernel code\n  "
                             "02200000-02dfffff : Kernel rodata\n"),
            0x1000000UL);
  EXPECT_FALSE(find_kernel_code("00000000-00000000 : Kernel code\n"));
  EXPECT_FALSE(find_kernel_code("    : Kernel code\n"));
  EXPECT_FALSE(find_kernel_code(""));
}

TEST(Slowness, IsNeverBelowOne) {
  EXPECT_EQ(slowness_of(1), 1.0);
  EXPECT_EQ(slowness_of(kReferenceWorkNs * 7), 7.0);
  EXPECT_GT(measure_work_ns(), 0U);
  EXPECT_GE(measure_slowness(), 1.0);
}

TEST(SlownessMeter, StartsWithWhatIsKnownAndNeverFallsBelow) {
  SlownessMeter meter(500.0);
  EXPECT_EQ(meter.value(), 500.0);
  meter.sample();
  EXPECT_GE(meter.value(), 500.0);
  EXPECT_EQ(SlownessMeter(5000.0).value(), 1000.0);
}

TEST(ModuleList, TakesAbsolutePathsInOrder) {
  std::vector<std::string> warnings;
  EXPECT_EQ(parse_module_list("# first\n/lib/a.ko\n\n/lib/b.ko.xz\nlib/c.ko", warnings),
            (std::vector<std::string>{"/lib/a.ko", "/lib/b.ko.xz"}));
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("'lib/c.ko'"), std::string::npos);
}

TEST(ModuleList, IsBounded) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "/m\n";
  std::vector<std::string> warnings;
  EXPECT_EQ(parse_module_list(text, warnings).size(), 256U);
  EXPECT_EQ(warnings.size(), 1U);
}

}  // namespace
}  // namespace ktstr::guest
