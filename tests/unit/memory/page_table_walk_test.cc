// What the walk makes of sound tables. Damaged ones: hostile_tables_test.cc.
#include "host/memory/page_table_walk.h"

#include <gtest/gtest.h>

#include "host/memory/mock_memory.h"
#include "host/memory/page_table_builder.h"

namespace ktstr {
namespace {

using Page = PageTableBuilder::Page;
constexpr std::uint64_t kMiB = 1 << 20, kGiB = 1 << 30;

class PageTableWalkTest : public testing::TestWithParam<PagingLevels> {
 protected:
  PageTableWalkTest() { mock_.add_ram(Gpa(0x100000), 64 * PageTableBuilder::kTableBytes); }

  FaultOr<Translation> translate(Kva kva) { return tables_.walk().translate(mock_.memory(), kva, budget_); }

  MockMemory mock_;
  PageTableBuilder tables_{mock_, Gpa(0x100000), GetParam()};
  ReadBudget budget_{1 << 20, 1 << 16};
};

TEST_P(PageTableWalkTest, FindsPagesOfAllSizes) {
  tables_.map(Kva(0xffffc90000003000), Gpa(0x7654321000));
  tables_.map(Kva(0xffff888040200000), Gpa(0x3fe00000), Page::k2MiB);
  tables_.map(Kva(0xffff8880c0000000), Gpa(0x80000000), Page::k1GiB);
  EXPECT_EQ(translate(Kva(0xffffc90000003abc)), (Translation{Gpa(0x7654321abc), 0x1000, 0x544}));
  EXPECT_EQ(translate(Kva(0xffff888040200000)), (Translation{Gpa(0x3fe00000), 2 * kMiB, 2 * kMiB}));
  EXPECT_EQ(translate(Kva(0xffff8880403fffff)), (Translation{Gpa(0x3fffffff), 2 * kMiB, 1}));
  EXPECT_EQ(translate(Kva(0xffff8880c0000001)), (Translation{Gpa(0x80000001), kGiB, kGiB - 1}));
  EXPECT_EQ(translate(Kva(0xffff8880ffffffff)), (Translation{Gpa(0xbfffffff), kGiB, 1}));
}

TEST_P(PageTableWalkTest, FindsTheFirstAndTheLastPage) {
  tables_.map(Kva(0), Gpa(0x1000));
  tables_.map(Kva(0xfffffffffffff000), Gpa(0x2000));
  EXPECT_EQ(translate(Kva(0)), (Translation{Gpa(0x1000), 0x1000, 0x1000}));
  EXPECT_EQ(translate(Kva(~0ull)), (Translation{Gpa(0x2fff), 0x1000, 1}));
}

TEST_P(PageTableWalkTest, ReadsOneEntryPerLevel) {
  tables_.map(Kva(0xffffc90000003000), Gpa(0x1000));
  ASSERT_TRUE(translate(Kva(0xffffc90000003000)));
  const auto levels = static_cast<std::uint64_t>(GetParam());
  EXPECT_EQ(budget_.reads_left(), (1 << 16) - levels);
  EXPECT_EQ(budget_.bytes_left(), (1 << 20) - 8 * levels);
}

TEST_P(PageTableWalkTest, IgnoresRightsProtectionKeysAndSoftwareBits) {
  // NX, key 15 and 52-58, 8-11, cache control, user, read-only.
  const std::uint64_t flags = 0xfff0000000000f1d;
  const Kva kva(0xffffc90000003000);
  tables_.map(kva, Gpa(0x1000), Page::k4KiB, flags | 0x80);  // bit 7 is PAT here
  for (std::uint32_t level = 2; level <= static_cast<std::uint32_t>(GetParam()); ++level) {
    const Gpa place = tables_.entry_place(kva, level);
    mock_.write_value(place, mock_.value_at<std::uint64_t>(place) | flags);
  }
  EXPECT_EQ(translate(kva), (Translation{Gpa(0x1000), 0x1000, 0x1000}));
  tables_.map(Kva(0xffffc90040200000), Gpa(0x400000), Page::k2MiB, flags | 0x1000);  // bit 12 is PAT here
  EXPECT_EQ(translate(Kva(0xffffc90040200000)), (Translation{Gpa(0x400000), 2 * kMiB, 2 * kMiB}));
}

TEST_P(PageTableWalkTest, TakesACr3AsTheRoot) {
  tables_.map(Kva(0xffffc90000003000), Gpa(0x1000));
  const PageTableWalk walk(tables_.root() + 0x81b, GetParam());
  EXPECT_EQ(walk.root(), tables_.root());
  EXPECT_TRUE(walk.translate(mock_.memory(), Kva(0xffffc90000003000), budget_));
}

TEST_P(PageTableWalkTest, AnAbsentEntryIsNamedWithItsLevel) {
  const Kva kva(0xffffc90000003000);
  for (std::uint32_t level = static_cast<std::uint32_t>(GetParam()); level > 0; --level) {
    const Gpa place = tables_.entry_place(kva, level);
    // Not present: what else the entry holds means nothing, not even reserved bits.
    mock_.write_value(place, std::uint64_t{0x000ffffffffffffe});
    const auto translation = translate(kva);
    ASSERT_FALSE(translation);
    EXPECT_EQ(translation.error(), (Fault{.kind = Fault::Kind::kNotMapped,
                                          .access = Fault::Access::kTableEntry,
                                          .kva = kva,
                                          .gpa = place,
                                          .size = 8,
                                          .level = level,
                                          .entry = 0x000ffffffffffffe}));
    mock_.write_value(place, std::uint64_t{0});
  }
}

TEST_P(PageTableWalkTest, RefusesAddressesThatAreNotCanonical) {
  const bool five = GetParam() == PagingLevels::kFive;
  const std::uint64_t end_of_low = five ? 0x0100000000000000 : 0x0000800000000000;
  for (const std::uint64_t bad : {end_of_low, 0 - end_of_low - 1, 0x8000000000000000ul, 0x7ffffffffffffffful,
                                  0x6b6b6b6b6b6b6b6bul, 0xdead000000000100ul}) {
    const auto translation = translate(Kva(bad));
    ASSERT_FALSE(translation) << fmt::format("{:#x}", bad);
    EXPECT_EQ(translation.error().kind, Fault::Kind::kNotCanonical);
    EXPECT_EQ(translation.error().kva, Kva(bad));
  }
  EXPECT_EQ(budget_.reads_left(), 1u << 16);
  for (const std::uint64_t good : {end_of_low - 1, 0 - end_of_low})
    EXPECT_EQ(translate(Kva(good)).error().kind, Fault::Kind::kNotMapped);
}

INSTANTIATE_TEST_SUITE_P(Levels, PageTableWalkTest, testing::Values(PagingLevels::kFour, PagingLevels::kFive),
                         [](const auto& param) {
                           return param.param == PagingLevels::kFour ? "Four" : "Five";
                         });

TEST(PageTableWalk, FiveLevelsReachBeyond48Bits) {
  MockMemory mock;
  mock.add_ram(Gpa(0), 16 * PageTableBuilder::kTableBytes);
  PageTableBuilder tables(mock, Gpa(0), PagingLevels::kFive);
  tables.map(Kva(0xff11000000000000), Gpa(0x1000));
  ReadBudget budget(100, 100);
  EXPECT_TRUE(tables.walk().translate(mock.memory(), Kva(0xff11000000000000), budget));
  EXPECT_EQ(PageTableWalk(Gpa(0), PagingLevels::kFour)
                .translate(mock.memory(), Kva(0xff11000000000000), budget)
                .error()
                .kind,
            Fault::Kind::kNotCanonical);
}

}  // namespace
}  // namespace ktstr
