#include "host/machine/host_resources.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

TEST(HostResources, MemAvailable) {
  EXPECT_EQ(parse_mem_available("MemTotal:  100 kB\nMemFree: 5 kB\nMemAvailable:   1048576 kB\n"), kGiB);
  EXPECT_EQ(parse_mem_available(""), UINT64_MAX);
  EXPECT_EQ(parse_mem_available("MemAvailable:"), UINT64_MAX);
  EXPECT_EQ(parse_mem_available("MemAvailable: x kB"), UINT64_MAX);
  EXPECT_EQ(parse_mem_available("MemAvailable: 18446744073709551615 kB"), UINT64_MAX);
  EXPECT_GT(host_memory().available, std::uint64_t{1} << 20);
}

TEST(HostResources, TooMuchNamesBothFigures) {
  EXPECT_TRUE(check_host_memory(kGiB, {}));
  EXPECT_TRUE(check_host_memory(kGiB, {.available = kGiB}));
  for (const HostMemory& host :
       {HostMemory{.available = kGiB}, HostMemory{.address_space = kGiB}, HostMemory{.file_size = kGiB}}) {
    const auto refused = check_host_memory(2 * kGiB, host);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ErrorCode::kHost);
    EXPECT_NE(refused.error().message().find("2 GiB"), std::string::npos) << refused.error().message();
    EXPECT_NE(refused.error().message().find("1 GiB"), std::string::npos) << refused.error().message();
  }
}

TEST(HostResources, CpuFlags) {
  EXPECT_EQ(parse_cpu_flags("processor: 0\nflags\t\t: fpu vmx  tsc \nbugs: x\nprocessor: 1\nflags: svm\n"),
            (std::set<std::string>{"fpu", "vmx", "tsc"}));
  EXPECT_TRUE(parse_cpu_flags("").empty());
  EXPECT_TRUE(parse_cpu_flags("flags").empty());
  EXPECT_TRUE(host_cpu_flags().contains("fpu"));
}

}  // namespace
}  // namespace ktstr
