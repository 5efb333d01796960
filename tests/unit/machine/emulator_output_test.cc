#include "host/machine/tcg/emulator_output.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

TEST(EmulatorOutput, KeepsTheLastBytes) {
  std::string tail;
  const std::string block(kMaxEmulatorOutput - 1, 'a');
  append_output(tail, std::as_bytes(std::span(block)));
  append_output(tail, std::as_bytes(std::span(std::string_view("bcd"))));
  EXPECT_EQ(tail.size(), kMaxEmulatorOutput);
  EXPECT_TRUE(tail.ends_with("abcd"));
}

TEST(EmulatorOutput, LeavesOutWhatEveryStartPrints) {
  EXPECT_EQ(emulator_words("qemu: warning: TCG doesn't support requested feature: CPUID.X\n"
                           "qemu: real trouble\r\n"
                           "\x1b[31mred\x7f\n\n"),
            "qemu: real trouble\n[31mred");
  EXPECT_EQ(emulator_words(""), "");
}

TEST(EmulatorOutput, RecognisesABadImage) {
  EXPECT_TRUE(complains_about_image("qemu: could not load kernel '/proc/self/fd/7': No such file"));
  EXPECT_TRUE(complains_about_image("Error loading uncompressed kernel without PVH ELF Note"));
  EXPECT_FALSE(complains_about_image("qemu: cannot set up guest memory"));
  EXPECT_EQ(first_line("one\ntwo"), "one");
}

TEST(EmulatorOutput, RecognisesAnUnknownCpuFlag) {
  EXPECT_TRUE(
      complains_about_cpu_flag("qemu-system-x86_64: can't apply global EPYC-x86_64-cpu.nonsense=on: Property "
                               "'EPYC-x86_64-cpu.nonsense' not found"));
  EXPECT_FALSE(complains_about_cpu_flag("Property 'pc-machine.nonsense' not found"));
}

}  // namespace
}  // namespace ktstr
