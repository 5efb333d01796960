// Page tables that no sound kernel makes: the walk ends after as many steps as there are levels, and says
// what is wrong.
#include <gtest/gtest.h>

#include "host/memory/kernel_memory.h"
#include "host/memory/mock_memory.h"
#include "host/memory/page_table_builder.h"
#include "host/memory/page_table_walk.h"

namespace ktstr {
namespace {

using Page = PageTableBuilder::Page;
constexpr Kva kSome{0xffffc90000003000};
constexpr std::uint64_t kUsual = PageTableBuilder::kUsual;

class HostileTables : public testing::TestWithParam<PagingLevels> {
 protected:
  HostileTables() { mock_.add_ram(Gpa(0x100000), 64 * PageTableBuilder::kTableBytes); }

  FaultOr<Translation> translate(Kva kva, std::uint32_t physical_bits = 52) {
    return tables_.walk(physical_bits).translate(mock_.memory(), kva, budget_);
  }
  std::uint32_t top() const { return static_cast<std::uint32_t>(GetParam()); }

  MockMemory mock_;
  PageTableBuilder tables_{mock_, Gpa(0x100000), GetParam()};
  ReadBudget budget_{1 << 20, 1 << 16};
};

TEST_P(HostileTables, AnEntryThatPointsAtItsOwnTableEndsTheWalkAtThePage) {
  // Every entry of the root leads back to the root: the "page" is the root itself.
  for (std::uint64_t at = 0; at < 512; ++at)
    mock_.write_value(tables_.root() + at * 8, tables_.root().value() | kUsual);
  for (const Kva kva : {Kva(0), Kva(~0ull), kSome}) {
    const ReadBudget before = budget_;
    const auto translation = translate(kva);
    ASSERT_TRUE(translation);
    EXPECT_EQ(translation->gpa, tables_.root() + kva.value() % 4096);
    EXPECT_EQ(before.reads_left() - budget_.reads_left(), top());
  }
}

TEST_P(HostileTables, TwoTablesThatPointAtEachOtherEndTheWalkToo) {
  const Gpa other(0x110000);
  for (std::uint64_t at = 0; at < 512; ++at) {
    mock_.write_value(tables_.root() + at * 8, other.value() | kUsual);
    mock_.write_value(other + at * 8, tables_.root().value() | kUsual);
  }
  const auto translation = translate(kSome);
  ASSERT_TRUE(translation);
  EXPECT_EQ(translation->gpa, top() % 2 == 0 ? tables_.root() : other);
}

TEST_P(HostileTables, ATableOutsideRamIsNotRam) {
  for (std::uint32_t level = top(); level > 1; --level) {
    for (const std::uint64_t table : {0x000ffffffffff000ull, 0x200000ull, 0ull}) {
      mock_.write_value(tables_.entry_place(kSome, level), table | kUsual);
      const auto translation = translate(kSome);
      ASSERT_FALSE(translation);
      EXPECT_EQ(translation.error().kind, Fault::Kind::kNotRam);
      EXPECT_EQ(translation.error().access, Fault::Access::kTableEntry);
      EXPECT_EQ(translation.error().level, level - 1);
      EXPECT_EQ(translation.error().gpa->value() & ~0xfffull, table);
      EXPECT_EQ(translation.error().kva, kSome);
    }
    mock_.write_value(tables_.entry_place(kSome, level), std::uint64_t{0});
  }
}

TEST_P(HostileTables, ARootOutsideRamOrBeyondTheWidthIsAFault) {
  const auto at_root = [this](std::uint64_t root, std::uint32_t bits) {
    return PageTableWalk(Gpa(root), GetParam(), bits).translate(mock_.memory(), kSome, budget_).error();
  };
  EXPECT_EQ(at_root(0x5000, 52).kind, Fault::Kind::kNotRam);
  EXPECT_EQ(at_root(~0ull, 52).kind, Fault::Kind::kReservedBit);
  EXPECT_EQ(at_root(~0ull, 52).level, 0u);
  EXPECT_EQ(at_root(0x10000000000, 40).kind, Fault::Kind::kReservedBit);
  EXPECT_EQ(at_root(0x10000000000, 41).kind, Fault::Kind::kNotRam);
}

TEST_P(HostileTables, AddressBitsBeyondTheWidthAreReservedAtEveryLevel) {
  tables_.map(kSome, Gpa(0x1000));
  ASSERT_TRUE(translate(kSome, 40));
  for (std::uint32_t level = top(); level > 0; --level) {
    const Gpa place = tables_.entry_place(kSome, level);
    const auto sound = mock_.value_at<std::uint64_t>(place);
    for (std::uint32_t bit = 40; bit < 52; ++bit) {
      mock_.write_value(place, sound | std::uint64_t{1} << bit);
      const auto translation = translate(kSome, 40);
      ASSERT_FALSE(translation);
      EXPECT_EQ(translation.error().kind, Fault::Kind::kReservedBit);
      EXPECT_EQ(translation.error().level, level);
      EXPECT_EQ(translation.error().entry, sound | std::uint64_t{1} << bit);
    }
    mock_.write_value(place, sound);
  }
}

TEST_P(HostileTables, LowAddressBitsOfALargePageAreReserved) {
  for (const auto& [page, end] : {std::pair(Page::k2MiB, 21u), std::pair(Page::k1GiB, 30u)}) {
    const auto level = static_cast<std::uint32_t>(page);
    const Kva kva(0xffffc90000000000);
    for (std::uint32_t bit = 13; bit < end; ++bit) {
      tables_.map(kva, Gpa(std::uint64_t{1} << bit), page);
      EXPECT_EQ(translate(kva).error().kind, Fault::Kind::kReservedBit)
          << "level " << level << " bit " << bit;
    }
    tables_.map(kva, Gpa(std::uint64_t{1} << end), page);
    EXPECT_TRUE(translate(kva));
    mock_.write_value(tables_.entry_place(kva, level), std::uint64_t{0});
  }
}

TEST_P(HostileTables, PageSizeAtTheUpperLevelsIsReserved) {
  for (std::uint32_t level = top(); level > 3; --level) {
    const Gpa place = tables_.entry_place(kSome, level);
    mock_.write_value(place, 0x80 | kUsual);
    EXPECT_EQ(translate(kSome).error().kind, Fault::Kind::kReservedBit);
    EXPECT_EQ(translate(kSome).error().level, level);
    mock_.write_value(place, std::uint64_t{0});
  }
}

TEST_P(HostileTables, TheBudgetEndsAWalk) {
  tables_.map(kSome, Gpa(0x1000));
  budget_ = ReadBudget(1000, 2);
  const auto translation = translate(kSome);
  ASSERT_FALSE(translation);
  EXPECT_EQ(translation.error().kind, Fault::Kind::kBudget);
  EXPECT_EQ(translation.error().level, top() - 2);
}

TEST_P(HostileTables, APageOutsideRamIsAFaultOfTheRead) {
  tables_.map(kSome, Gpa(0x000ffffffffff000));
  tables_.map(kSome + 0x1000, Gpa(0x100000));
  KernelMemory kernel(mock_.memory(), {.direct_map = {}, .image = {}, .page_tables = tables_.walk()});
  const auto value = kernel.read<std::uint64_t>(kSome + 0xffc, budget_);
  ASSERT_FALSE(value);
  EXPECT_EQ(
      value.error(),
      (Fault{.kind = Fault::Kind::kNotRam, .kva = kSome + 0xffc, .gpa = Gpa(0x000ffffffffffffc), .size = 8}));
}

TEST_P(HostileTables, AReadDoesNotGoOnAtAddressZero) {
  tables_.map(Kva(0), Gpa(0x100000));
  tables_.map(Kva(0xfffffffffffff000), Gpa(0x101000));
  KernelMemory kernel(mock_.memory(), {.direct_map = {}, .image = {}, .page_tables = tables_.walk()});
  EXPECT_TRUE(kernel.read<std::uint8_t>(Kva(~0ull), budget_));
  EXPECT_EQ(kernel.read<std::uint16_t>(Kva(~0ull), budget_).error().kind, Fault::Kind::kWraps);
  mock_.write_value(Gpa(0x101fff), 'x');
  EXPECT_EQ(kernel.read_c_string(Kva(~0ull), 1, budget_), (GuestString{"x", false}));
  const auto text = kernel.read_c_string(Kva(~0ull), 5, budget_);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().kind, Fault::Kind::kWraps);
  EXPECT_EQ(text.error().access, Fault::Access::kString);
}

INSTANTIATE_TEST_SUITE_P(Levels, HostileTables, testing::Values(PagingLevels::kFour, PagingLevels::kFive),
                         [](const auto& param) {
                           return param.param == PagingLevels::kFour ? "Four" : "Five";
                         });

}  // namespace
}  // namespace ktstr
