#include "host/memory/read_budget.h"

#include <cstdint>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

TEST(ReadBudget, CountsBytesAndReads) {
  ReadBudget budget(100, 3);
  EXPECT_TRUE(budget.spend(40));
  EXPECT_TRUE(budget.spend(60));
  EXPECT_EQ(budget.bytes_left(), 0u);
  EXPECT_EQ(budget.reads_left(), 1u);
  EXPECT_FALSE(budget.exhausted());
  EXPECT_FALSE(budget.spend(1));
  EXPECT_TRUE(budget.exhausted());
}

TEST(ReadBudget, EndsWithTheReads) {
  ReadBudget budget(100, 1);
  EXPECT_TRUE(budget.spend(1));
  EXPECT_FALSE(budget.spend(1));
}

TEST(ReadBudget, RefusesEverythingAfterTheFirstRefusal) {
  ReadBudget budget(10, 10);
  EXPECT_FALSE(budget.spend(UINT64_MAX));
  EXPECT_FALSE(budget.spend(1));
  EXPECT_EQ(budget.bytes_left(), 10u);
}

}  // namespace
}  // namespace ktstr
