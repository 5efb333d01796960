#include "host/machine/kvm/devices/guest_ram_view.h"

#include <array>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr;
using namespace ktstr::kvm;
using ktstr::kvm::mock::MockRam;

namespace {

// Two adjacent regions, then one behind a hole.
class GuestRamViewTest : public ::testing::Test {
 protected:
  MockRam first_{0x1000, 0x1000};
  MockRam second_{0x2000, 0x1000};
  MockRam far_{0x10000, 0x1000};
  GuestRamView view_{{first_.region(), second_.region(), far_.region()}};
};

TEST_F(GuestRamViewTest, ReadsAndWritesAcrossAdjacentRegions) {
  const std::string text = "across the edge";
  ASSERT_TRUE(view_.write(0x1ff8, std::as_bytes(std::span(text))));
  EXPECT_EQ(first_.text(0x1ff8, 8), text.substr(0, 8));
  EXPECT_EQ(second_.text(0x2000, 7), text.substr(8));
  std::string back(text.size(), ' ');
  ASSERT_TRUE(view_.read(0x1ff8, std::as_writable_bytes(std::span(back))));
  EXPECT_EQ(back, text);
}

TEST_F(GuestRamViewTest, CopiesNothingWhenAnyByteIsNoRam) {
  std::array<std::byte, 16> bytes;
  bytes.fill(std::byte{1});
  EXPECT_FALSE(view_.write(0x2ff8, bytes));
  EXPECT_EQ(second_.get<std::uint64_t>(0x2ff8), 0U);
  EXPECT_FALSE(view_.read(0xff8, bytes));
  EXPECT_EQ(bytes[15], std::byte{1});
  EXPECT_FALSE(view_.read(0x5000, bytes));
  EXPECT_FALSE(view_.read(0x10ff8, bytes));
}

TEST_F(GuestRamViewTest, ContainsIsSafeAgainstWrapping) {
  EXPECT_TRUE(view_.contains(0x1000, 0x2000));
  EXPECT_FALSE(view_.contains(0x1000, 0x2001));
  EXPECT_FALSE(view_.contains(0x1000, ~std::uint64_t{0}));
  EXPECT_FALSE(view_.contains(~std::uint64_t{0}, 0x1001));
  EXPECT_FALSE(view_.contains(~std::uint64_t{0} - 7, 0x2000));
  EXPECT_TRUE(view_.contains(0x7777, 0));
}

TEST_F(GuestRamViewTest, RamThatEndsWithTheAddressSpaceDoesNotWrapIntoItsStart) {
  MockRam low(0, 0x1000);
  MockRam high(~std::uint64_t{0} - 0xfff, 0x1000);
  const GuestRamView view({low.region(), high.region()});
  EXPECT_TRUE(view.contains(~std::uint64_t{0} - 0xfff, 0x1000));
  EXPECT_FALSE(view.contains(~std::uint64_t{0} - 0xfff, 0x1001));
}

TEST_F(GuestRamViewTest, BytesAreThoseOfOneRegion) {
  EXPECT_EQ(view_.bytes(0x1000, 0x1000).size(), 0x1000U);
  EXPECT_TRUE(view_.bytes(0x1fff, 2).empty());
  EXPECT_TRUE(view_.bytes(0x3000, 1).empty());
  view_.bytes(0x10010, 1)[0] = std::byte{9};
  EXPECT_EQ(far_.get<std::uint8_t>(0x10010), 9);
}

TEST_F(GuestRamViewTest, IndicesAreAlignedAndInRam) {
  std::uint16_t value = 0;
  ASSERT_TRUE(view_.store_release(0x1002, 0x1234));
  ASSERT_TRUE(view_.load_acquire(0x1002, value));
  EXPECT_EQ(value, 0x1234);
  EXPECT_EQ(first_.get<std::uint16_t>(0x1002), 0x1234);
  EXPECT_FALSE(view_.load_acquire(0x1003, value));
  EXPECT_FALSE(view_.store_release(0x1fff, 1));
  EXPECT_FALSE(view_.load_acquire(0x3000, value));
  EXPECT_FALSE(view_.store_release(0x2fff, 1));
}

}  // namespace
