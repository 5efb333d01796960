#include "host/machine/tcg/kernel_arguments.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

bool has(const std::vector<KernelArgument>& arguments, const std::string& text) {
  return std::any_of(arguments.begin(), arguments.end(), [&](const auto& each) { return each.text == text; });
}

TEST(KernelArguments, TheSerialConsoleComesFirst) {
  const auto arguments = tcg_kernel_arguments({}, 0, "virtio:x");
  ASSERT_FALSE(arguments.empty());
  EXPECT_EQ(arguments[0].text, "console=ttyS0");
  for (const auto& argument : arguments) EXPECT_FALSE(argument.reason.empty()) << argument.text;
}

TEST(KernelArguments, TscIsTrustedOnlyWhereTheHostsIsSteady) {
  EXPECT_FALSE(has(tcg_kernel_arguments({}, 250, "virtio:x"), "tsc=reliable"));
  EXPECT_TRUE(has(tcg_kernel_arguments({.steady = true, .hertz = 2.3e9}, 250, "virtio:x"), "tsc=reliable"));
}

TEST(KernelArguments, LoopsPerJiffyNeedBothFrequencies) {
  EXPECT_TRUE(has(tcg_kernel_arguments({.steady = true, .hertz = 2.3e9}, 250, "virtio:x"), "lpj=9200000"));
  EXPECT_TRUE(has(tcg_kernel_arguments({.steady = true, .hertz = 2.3e9}, 1000, "virtio:x"), "lpj=2300000"));
  for (const auto& argument : tcg_kernel_arguments({.steady = true, .hertz = 2.3e9}, 0, "virtio:x")) {
    EXPECT_FALSE(argument.text.starts_with("lpj="));
  }
}

TEST(KernelArguments, TheHostsTscIsPlausible) {
  const HostTsc tsc = measure_host_tsc();
  if (!tsc.steady) GTEST_SKIP() << "this host's TSC is not steady";
  EXPECT_GT(tsc.hertz, 0.5e9);
  EXPECT_LT(tsc.hertz, 10e9);
}

}  // namespace
}  // namespace ktstr
