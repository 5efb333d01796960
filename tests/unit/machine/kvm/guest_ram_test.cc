#include "host/machine/kvm/guest_ram.h"

#include <algorithm>
#include <array>
#include <fstream>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/temp_file.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint64_t kPage = 4096;

GuestRam make_ram(std::vector<std::uint64_t> nodes, RamPages pages = RamPages::kNormal) {
  return GuestRam::create(nodes, pages).value();
}

bool equal(std::span<const std::byte> ram, std::span<const std::uint8_t> bytes) {
  return std::ranges::equal(ram, std::as_bytes(bytes));
}

bool zero(std::span<const std::byte> ram) {
  return std::ranges::all_of(ram, [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(GuestRam, WholePagesAreMappedAndTheRestIsCopied) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(2 * kPage + 100);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, bytes.size(), 16 * kPage));
  EXPECT_EQ(ram.mapped_bytes(), 2 * kPage);
  EXPECT_TRUE(equal(ram.bytes(16 * kPage, bytes.size()), bytes));
  // Nothing of the file, or of the page cache behind its end, follows.
  EXPECT_TRUE(zero(ram.bytes(16 * kPage + bytes.size(), 4 * kPage)));
  EXPECT_TRUE(zero(ram.bytes(0, 16 * kPage)));
}

TEST(GuestRam, WhatIsMappedIsTheGuestsOwnCopy) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(kPage);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, kPage, 0));
  ram.bytes(0, 1)[0] = std::byte{0xee};
  std::uint8_t in_file = 0;
  ASSERT_EQ(pread(file.get(), &in_file, 1, 0), 1);
  EXPECT_EQ(in_file, bytes[0]);
}

TEST(GuestRam, WhatIsNotCongruentIsCopied) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(3 * kPage);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, bytes.size(), 16 * kPage + 8));
  EXPECT_TRUE(equal(ram.bytes(16 * kPage + 8, bytes.size()), bytes));
  ASSERT_TRUE(ram.load_file(file.get(), 1, kPage, 32 * kPage));
  EXPECT_TRUE(equal(ram.bytes(32 * kPage, kPage), std::span(bytes).subspan(1, kPage)));
  EXPECT_EQ(ram.mapped_bytes(), 0U);
}

TEST(GuestRam, LessThanAPageIsCopied) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(17);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, bytes.size(), kPage));
  EXPECT_TRUE(equal(ram.bytes(kPage, bytes.size()), bytes));
  EXPECT_EQ(ram.mapped_bytes(), 0U);
}

TEST(GuestRam, NothingIsLoadedOutOfRange) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(2 * kPage);
  const UniqueFd file = file_of(bytes);
  for (const std::uint64_t gpa : {kMiB - kPage, kMiB, kMiB + kPage, std::uint64_t{0} - kPage, kHighRamGpa}) {
    const auto loaded = ram.load_file(file.get(), 0, bytes.size(), gpa);
    ASSERT_FALSE(loaded) << gpa;
    EXPECT_EQ(loaded.error().code(), ErrorCode::kUsage);
    EXPECT_NE(loaded.error().to_string().find("do not fit into guest RAM"), std::string::npos);
  }
  EXPECT_TRUE(zero(ram.bytes(0, kMiB)));
}

// A page of a mapping that lies behind the file's end would end the process when the guest touches it.
TEST(GuestRam, AFileThatIsTooShortIsNotMapped) {
  GuestRam ram = make_ram({kMiB});
  const UniqueFd file = file_of(pattern(kPage + 10));
  struct Case {
    std::uint64_t offset, size;
  };
  for (const Case& one : {Case{0, 2 * kPage}, Case{kPage, kPage}, Case{0, kPage + 11}, Case{kPage * 4, kPage},
                          Case{~std::uint64_t{0} - kPage + 1, 2 * kPage}}) {
    const auto loaded = ram.load_file(file.get(), one.offset, one.size, 0);
    ASSERT_FALSE(loaded) << one.offset;
    EXPECT_EQ(loaded.error().code(), ErrorCode::kUsage);
    EXPECT_NE(loaded.error().to_string().find("shorter than its headers say"), std::string::npos);
  }
  EXPECT_TRUE(zero(ram.bytes(0, kMiB)));
  EXPECT_EQ(ram.mapped_bytes(), 0U);
}

TEST(GuestRam, NodesLieEndToEndAndAroundTheHole) {
  GuestRam ram = make_ram({kGiB, 3 * kGiB, kMiB});
  const auto regions = ram.regions();
  std::uint64_t total = 0;
  std::uint64_t end = 0;
  for (const RamRegion& region : regions) {
    EXPECT_GE(region.gpa, end);
    end = region.gpa + region.host.size();
    total += region.host.size();
    EXPECT_TRUE(end <= kLowRamEnd || region.gpa >= kHighRamGpa);
  }
  EXPECT_EQ(total, 4 * kGiB + kMiB);
  EXPECT_EQ(end, 5 * kGiB + kMiB);
  // One piece at a time.
  EXPECT_FALSE(ram.bytes(kGiB - 8, 8).empty());
  EXPECT_TRUE(ram.bytes(kGiB - 8, 16).empty());
  EXPECT_TRUE(ram.bytes(kLowRamEnd - 8, 16).empty());
  EXPECT_TRUE(ram.bytes(kLowRamEnd, 1).empty());
  EXPECT_FALSE(ram.bytes(kHighRamGpa, 1).empty());
  EXPECT_TRUE(ram.bytes(~std::uint64_t{0}, 1).empty());
  EXPECT_TRUE(ram.bytes(8, ~std::uint64_t{0}).empty());
}

// Not the first touch by the guest, which would end the process.
TEST(GuestRam, HugePagesThatAreNotThereAreRefused) {
  std::ifstream file("/proc/sys/vm/nr_hugepages");
  std::uint64_t pages = 0;
  if (!(file >> pages) || pages > 100) GTEST_SKIP() << "this host has huge pages set aside";
  const std::array<std::uint64_t, 1> nodes = {kGiB};
  const auto ram = GuestRam::create(nodes, RamPages::kHuge);
  ASSERT_FALSE(ram);
  EXPECT_EQ(ram.error().code(), ErrorCode::kHost);
  EXPECT_NE(ram.error().to_string().find("/proc/sys/vm/nr_hugepages"), std::string::npos)
      << ram.error().to_string();
}

TEST(GuestRam, NodesOfHugePagesHaveWholeOnes) {
  const std::array<std::uint64_t, 2> nodes = {214 * kMiB, 213 * kMiB};
  const auto ram = GuestRam::create(nodes, RamPages::kHuge);
  ASSERT_FALSE(ram);
  EXPECT_EQ(ram.error().code(), ErrorCode::kUsage);
  EXPECT_NE(ram.error().to_string().find("a multiple of 2 MiB for huge pages, not 213"), std::string::npos)
      << ram.error().to_string();
}

TEST(GuestRam, MoreThanTheAddressSpaceIsRefused) {
  const std::array<std::uint64_t, 1> nodes = {std::uint64_t{1} << 48};
  const auto ram = GuestRam::create(nodes, RamPages::kNormal);
  ASSERT_FALSE(ram);
  EXPECT_EQ(ram.error().code(), ErrorCode::kHost);
  EXPECT_NE(ram.error().to_string().find("guest RAM"), std::string::npos) << ram.error().to_string();
}

}  // namespace
}  // namespace ktstr::kvm::tiny
