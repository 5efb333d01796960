#include "host/machine/vcpu_clock.h"

#include <unistd.h>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

using std::chrono::nanoseconds;

TEST(VcpuClock, ParsesSchedstat) {
  const auto time = parse_schedstat("120 34 5");
  ASSERT_TRUE(time);
  EXPECT_EQ(time->used, nanoseconds(120));
  EXPECT_EQ(time->waited, nanoseconds(34));
  for (const char* bad : {"", "12", "12 ", "x 1 2", "1\t2", "99999999999999999999 1 2"}) {
    EXPECT_FALSE(parse_schedstat(bad)) << bad;
  }
}

TEST(VcpuClock, AThreadCountsOnce) {
  VcpuClock once(getpid(), {gettid()});
  VcpuClock twice(getpid(), {gettid(), gettid()});
  const auto before = once.read().used;
  const auto doubled = twice.read().used;
  EXPECT_GT(before, nanoseconds(0));
  EXPECT_LT(doubled, before + before);
}

TEST(VcpuClock, EachThreadOnceInTheOrderTheyWereNamed) {
  const auto each = VcpuClock(getpid(), {1 << 30, gettid(), 1 << 30}).read_each();
  ASSERT_EQ(each.size(), 2U);
  EXPECT_EQ(each[0].ran, nanoseconds(0));
  EXPECT_GT(each[1].ran, nanoseconds(0));
  EXPECT_TRUE(each[1].counters.empty());
}

TEST(VcpuClock, AThreadThatDoesNotExistUsedNothing) {
  EXPECT_EQ(VcpuClock(getpid(), {1 << 30}).read().used, nanoseconds(0));
  EXPECT_EQ(VcpuClock().read().used, nanoseconds(0));
}

}  // namespace
}  // namespace ktstr
