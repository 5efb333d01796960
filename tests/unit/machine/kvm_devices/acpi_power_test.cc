#include "host/machine/kvm/devices/acpi_power.h"

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr::kvm;
using ktstr::kvm::mock::read_register;
using ktstr::kvm::mock::write_register;

namespace {

class AcpiPowerTest : public ::testing::Test {
 protected:
  int offs_ = 0;
  int resets_ = 0;
  AcpiPower device_{[this] { ++offs_; }, [this] { ++resets_; }};
};

TEST_F(AcpiPowerTest, SleepType5WithEnableIsPowerOff) {
  write_register(device_, 0, kAcpiSleepType5 << 2 | 1 << 5, 1);
  EXPECT_EQ(offs_, 1);
  EXPECT_EQ(resets_, 0);
}

TEST_F(AcpiPowerTest, OtherSleepTypesAndAMissingEnableDoNothing) {
  for (unsigned value = 0; value < 256; ++value) {
    if ((value & 0x3c) != 0x34) write_register(device_, 0, value, 1);
  }
  EXPECT_EQ(offs_, 0);
}

TEST_F(AcpiPowerTest, TheResetValueResets) {
  write_register(device_, 2, 0x5b, 1);
  write_register(device_, 1, kAcpiResetValue, 1);
  EXPECT_EQ(resets_, 0);
  write_register(device_, 2, kAcpiResetValue, 1);
  EXPECT_EQ(resets_, 1);
  EXPECT_EQ(offs_, 0);
}

TEST_F(AcpiPowerTest, NeverSaysThatItWokeUp) {
  EXPECT_EQ(read_register(device_, 1, 1), 0U);
  EXPECT_EQ(read_register(device_, 0, 2), 0U);
}

}  // namespace
