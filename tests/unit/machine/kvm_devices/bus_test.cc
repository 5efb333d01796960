#include "host/machine/kvm/devices/bus.h"

#include <array>
#include <limits>

#include <gtest/gtest.h>

using namespace ktstr::kvm;

namespace {

class Recorder : public BusDevice {
 public:
  std::string_view name() const override { return "recorder"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override {
    last = offset;
    for (std::byte& byte : data) byte = std::byte{7};
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    last = offset;
    written = data.size();
  }
  std::uint64_t last = 0;
  std::size_t written = 0;
};

TEST(Bus, FindsTheDeviceOfARangeAndGivesTheOffset) {
  Bus bus;
  Recorder low;
  Recorder high;
  ASSERT_TRUE(bus.add(0x100, 8, low));
  ASSERT_TRUE(bus.add(0x108, 8, high));
  std::array<std::byte, 4> data{};
  EXPECT_EQ(bus.read(0x104, data), &low);
  EXPECT_EQ(low.last, 4U);
  EXPECT_EQ(data[3], std::byte{7});
  EXPECT_EQ(bus.write(0x10c, data), &high);
  EXPECT_EQ(high.last, 4U);
  EXPECT_EQ(high.written, 4U);
}

TEST(Bus, ReadsAllOnesWhereNobodyIs) {
  Bus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(0x100, 8, device));
  for (const std::uint64_t address : {0x0ULL, 0xffULL, 0x108ULL, 0xffffffffffffffffULL}) {
    std::array<std::byte, 1> data{};
    EXPECT_EQ(bus.read(address, data), nullptr);
    EXPECT_EQ(data[0], std::byte{0xff});
    EXPECT_EQ(bus.write(address, data), nullptr);
  }
}

TEST(Bus, AnAccessBeyondTheEndOfARangeIsAnsweredByNobody) {
  Bus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(0x100, 8, device));
  std::array<std::byte, 4> data{};
  EXPECT_EQ(bus.read(0x106, data), nullptr);
  EXPECT_EQ(data[0], std::byte{0xff});
  EXPECT_EQ(bus.read(0xfe, data), nullptr);
}

TEST(Bus, RefusesOverlappingEmptyAndWrappingRanges) {
  Bus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(0x100, 8, device));
  EXPECT_FALSE(bus.add(0x100, 8, device));
  EXPECT_FALSE(bus.add(0x107, 1, device));
  EXPECT_FALSE(bus.add(0xf9, 8, device));
  EXPECT_FALSE(bus.add(0xf0, 0x100, device));
  EXPECT_FALSE(bus.add(0x200, 0, device));
  EXPECT_FALSE(bus.add(std::numeric_limits<std::uint64_t>::max(), 2, device));
  EXPECT_TRUE(bus.add(std::numeric_limits<std::uint64_t>::max(), 1, device));
  std::array<std::byte, 1> data{};
  EXPECT_EQ(bus.read(std::numeric_limits<std::uint64_t>::max(), data), &device);
}

}  // namespace
