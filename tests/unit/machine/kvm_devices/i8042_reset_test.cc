#include "host/machine/kvm/devices/i8042_reset.h"

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm_devices/mock_guest.h"

using namespace ktstr::kvm;
using ktstr::kvm::mock::read_register;
using ktstr::kvm::mock::write_register;

namespace {

TEST(I8042Reset, TheResetCommandCallsBack) {
  int resets = 0;
  I8042Reset device([&] { ++resets; });
  write_register(device, 4, 0xaa, 1);
  write_register(device, 0, 0xfe, 1);
  EXPECT_EQ(resets, 0);
  write_register(device, 4, 0xfe, 1);
  EXPECT_EQ(resets, 1);
}

TEST(I8042Reset, LinuxGivesUpProbingAfter17Bytes) {
  I8042Reset device([] {});
  // i8042_flush(): reads while there is something, at most I8042_BUFFER_SIZE times.
  int accesses = 0;
  int count = 0;
  while ((read_register(device, 4, 1) & 1) != 0) {
    ++accesses;
    if (count++ >= 16) break;
    read_register(device, 0, 1);
    ++accesses;
  }
  EXPECT_EQ(count, 17);
  EXPECT_LT(accesses, 40);
}

TEST(I8042Reset, TakesCommandsAtOnce) {
  I8042Reset device([] {});
  EXPECT_EQ(read_register(device, 4, 1) & 2, 0U) << "kb_wait() would poll";
}

TEST(I8042Reset, Timer2HasAlwaysExpiredAndNoMemoryErrorIsReported) {
  I8042Reset device([] {});
  EXPECT_EQ(read_register(device, 1, 1), 0x20U);
  write_register(device, 1, 0xff, 1);
  EXPECT_EQ(read_register(device, 1, 1), 0x23U);
}

}  // namespace
