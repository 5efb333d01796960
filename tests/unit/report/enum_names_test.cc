#include "host/report/dump/enum_names.h"

#include <gtest/gtest.h>

#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

using Names = std::vector<std::string>;

class EnumNamesTest : public testing::Test {
 protected:
  EnumNames names_{sample_dump()};
};

TEST_F(EnumNamesTest, FlagsAreNamedLowestFirstAndTheRestIsHex) {
  EXPECT_EQ(names_.names("scx_ops_flags", 0x12),
            (Names{"SCX_OPS_ENQ_LAST", "SCX_OPS_ENQ_MIGRATION_DISABLED"}));
  EXPECT_EQ(names_.names("scx_ops_flags", 0x1002), (Names{"SCX_OPS_ENQ_LAST", "0x1000"}));
  EXPECT_EQ(names_.names("scx_ops_flags", 0), Names{});
  // A mask over single bits is no number.
  EXPECT_EQ(names_.names("scx_ops_flags", 1ull << 56), Names{"SCX_OPS_HAS_CPU_PREEMPT"});
}

TEST_F(EnumNamesTest, NumbersInsideAMaskAreNamedAsAWhole) {
  EXPECT_EQ(names_.names("scx_ent_flags", 0x401), (Names{"SCX_TASK_QUEUED", "SCX_TASK_ENABLED"}));
  EXPECT_EQ(names_.names("scx_ent_flags", 0x300), Names{"SCX_TASK_READY"});
  EXPECT_EQ(names_.names("scx_ent_flags", 0x700), Names{"SCX_TASK_STATE=0x7"});
  EXPECT_EQ(names_.names("scx_ent_flags", 8), Names{"SCX_TASK_DEQD_FOR_SLEEP"});
  EXPECT_EQ(names_.names("scx_ent_flags", 0x80000000), Names{"SCX_TASK_CURSOR"});
}

TEST_F(EnumNamesTest, AListOfValuesIsNoSetOfBits) {
  EXPECT_EQ(names_.names("scx_enable_state|scx_ops_enable_state", 3), Names{"SCX_DISABLED"});
  EXPECT_EQ(names_.names("scx_enable_state|scx_ops_enable_state", 9), Names{"0x9"});
}

TEST_F(EnumNamesTest, WithoutATableThereAreNoNames) {
  EXPECT_FALSE(names_.has("scx_enq_flags"));
  EXPECT_EQ(names_.names("scx_enq_flags", 1), Names{});
  EXPECT_EQ(names_.value("scx_ent_flags", "SCX_TASK_STATE_MASK", 5), 0x700u);
  EXPECT_EQ(names_.value("scx_ent_flags", "SCX_NO_SUCH", 5), 5u);
}

}  // namespace
}  // namespace ktstr
