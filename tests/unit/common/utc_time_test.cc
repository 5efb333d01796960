#include "common/utc_time.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

TEST(UtcTime, IsRfc3339) {
  EXPECT_EQ(rfc3339(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(rfc3339(1795269900), "2026-11-21T14:05:00Z");
  EXPECT_EQ(rfc3339_now().size(), 20U);
}

}  // namespace
}  // namespace ktstr
