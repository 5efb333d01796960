#include "host/machine/kernel_command_line.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

std::string joined(std::string_view user) {
  return join_kernel_arguments({{"console=ttyS0", "why", true},
                                {"no_timer_check", "why"},
                                {"initcall_blacklist=a", "why"},
                                {"tsc=reliable", "why"}},
                               user)
      .text;
}

TEST(KernelCommandLine, OursComeFirst) {
  EXPECT_EQ(joined(""), "console=ttyS0 no_timer_check initcall_blacklist=a tsc=reliable");
  EXPECT_EQ(joined(" quiet  debug "),
            "console=ttyS0 no_timer_check initcall_blacklist=a tsc=reliable quiet debug");
  EXPECT_EQ(join_kernel_arguments({}, "quiet x=1").text, "quiet x=1");
  EXPECT_EQ(join_kernel_arguments({}, "").text, "");
}

TEST(KernelCommandLine, TheUsersValueReplacesOurs) {
  EXPECT_EQ(joined("tsc=unstable"), "console=ttyS0 no_timer_check initcall_blacklist=a tsc=unstable");
  EXPECT_EQ(joined("initcall-blacklist=b"), "console=ttyS0 no_timer_check tsc=reliable initcall-blacklist=b");
  EXPECT_EQ(joined("tsc=x tsc="), "console=ttyS0 no_timer_check initcall_blacklist=a tsc=x tsc=");
}

TEST(KernelCommandLine, NothingBehindTheNameTakesOursAway) {
  EXPECT_EQ(joined("no_timer_check= tsc= initcall_blacklist="), "console=ttyS0");
  EXPECT_EQ(joined("other="), "console=ttyS0 no_timer_check initcall_blacklist=a tsc=reliable other=");
  // Only the whole name counts.
  EXPECT_EQ(joined("ts="), "console=ttyS0 no_timer_check initcall_blacklist=a tsc=reliable ts=");
}

TEST(KernelCommandLine, WhatARunNeedsStays) {
  EXPECT_EQ(joined("console=tty1 tsc="), "console=ttyS0 no_timer_check initcall_blacklist=a console=tty1");
  const auto line = join_kernel_arguments({{"rdinit=/init", "why", true}, {"x", "y"}}, "rdinit= x=");
  EXPECT_EQ(line.text, "rdinit=/init rdinit=");
  ASSERT_EQ(line.own.size(), 1U);
  EXPECT_EQ(line.own[0].text, "rdinit=/init");
}

TEST(KernelCommandLine, QuotesAndInitsArgumentsAreTheKernels) {
  EXPECT_EQ(join_kernel_arguments({{"tsc=reliable", ""}}, R"(dyndbg="file a.c +p; tsc= x" b)").text,
            R"(tsc=reliable dyndbg="file a.c +p; tsc= x" b)");
  EXPECT_EQ(join_kernel_arguments({{"tsc=reliable", ""}}, R"("tsc=a b")").text, R"("tsc=a b")");
  EXPECT_EQ(join_kernel_arguments({{"tsc=reliable", ""}}, "a -- tsc= b").text, "tsc=reliable a -- tsc= b");
}

}  // namespace
}  // namespace ktstr
