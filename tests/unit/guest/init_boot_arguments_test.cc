#include <gtest/gtest.h>

#include "guest/init/boot_arguments.h"

namespace ktstr::guest {
namespace {

TEST(BootArguments, FindsThePortAmongOtherArguments) {
  const auto arguments =
      parse_boot_arguments("console=ttyS0 quiet ktstr.frames=virtio:ktstr.frames panic=-1\n");
  EXPECT_EQ(arguments.frame_port, "ktstr.frames");
  EXPECT_EQ(arguments.injection, Injection::kNone);
  EXPECT_TRUE(arguments.problems.empty());
}

TEST(BootArguments, QuotesProtectBlanksAndTheLastOneWins) {
  const auto arguments =
      parse_boot_arguments(R"(ktstr.frames=virtio:a "ktstr.frames=virtio:b c" x="ktstr.inject=exit")");
  EXPECT_EQ(arguments.frame_port, "b c");
  EXPECT_EQ(arguments.injection, Injection::kNone);
}

TEST(BootArguments, KnowsTheDebugPort) {
  EXPECT_EQ(parse_boot_arguments("ktstr.frames=debugcon:0xe9").debug_port, 0xe9);
  EXPECT_EQ(parse_boot_arguments("ktstr.frames=debugcon:0xffff").debug_port, 0xffff);
  const auto last = parse_boot_arguments("ktstr.frames=virtio:a ktstr.frames=debugcon:0x402");
  EXPECT_EQ(last.debug_port, 0x402);
  EXPECT_TRUE(last.frame_port.empty());
  EXPECT_EQ(parse_boot_arguments("ktstr.frames=debugcon:0xe9 ktstr.frames=virtio:a").debug_port, 0);
  for (const char* bad :
       {"debugcon:", "debugcon:0x", "debugcon:e9", "debugcon:0x0", "debugcon:0x10000", "debugcon:0xe9x"}) {
    const auto arguments = parse_boot_arguments(std::string("ktstr.frames=") + bad);
    EXPECT_EQ(arguments.debug_port, 0) << bad;
    EXPECT_EQ(arguments.problems.size(), 1U) << bad;
  }
}

TEST(BootArguments, KnowsTheInjections) {
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=panic").injection, Injection::kPanic);
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=init-crash").injection, Injection::kInitCrash);
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=init-throw").injection, Injection::kInitThrow);
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=exit").injection, Injection::kExit);
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=silent").injection, Injection::kSilent);
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=kill-scheduler").injection, Injection::kKillScheduler);
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=late-output").injection, Injection::kLateOutput);
  EXPECT_EQ(parse_boot_arguments("ktstr.inject=topology").injection, Injection::kTopology);
}

TEST(BootArguments, NamesWhatItDoesNotUnderstand) {
  const auto arguments = parse_boot_arguments(
      "ktstr.frames=tcp:1 ktstr.frames=virtio: ktstr.inject=fire ktstr.colour=red ktstr.");
  EXPECT_TRUE(arguments.frame_port.empty());
  ASSERT_EQ(arguments.problems.size(), 5U);
  EXPECT_NE(arguments.problems[0].find("'tcp:1'"), std::string::npos);
  EXPECT_NE(arguments.problems[2].find("'fire'"), std::string::npos);
  EXPECT_NE(arguments.problems[3].find("'ktstr.colour'"), std::string::npos);
}

TEST(BootArguments, EmptyLineIsNoArgument) {
  EXPECT_TRUE(parse_boot_arguments("").frame_port.empty());
  EXPECT_TRUE(parse_boot_arguments("\n").problems.empty());
}

}  // namespace
}  // namespace ktstr::guest
