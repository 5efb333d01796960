#include "host/inspect/walk/rhashtable.h"

#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/inspect/mock_kernel.h"

namespace ktstr {
namespace {

using Kind = WalkBreak::Kind;

constexpr RhashtableOffsets kOffsets = {.tbl = 8,
                                        .table_size = 0,
                                        .table_nest = 4,
                                        .table_future_tbl = 0x28,
                                        .table_buckets = 0x40,
                                        .head_next = 0};

class RhashtableTest : public ::testing::Test {
 protected:
  Kva node(std::uint64_t n) const { return MockKernel::at(0x8000 + n * 0x20); }
  Kva bucket(Kva table, std::uint64_t n) const { return table + 0x40 + n * 8; }

  void make_table(Kva table, std::uint32_t size, std::uint32_t nest = 0) {
    kernel_.put(table, size);
    kernel_.put(table + 4, nest);
    kernel_.put(table + 0x28, Kva());
  }
  void use(Kva table) { kernel_.put(rhashtable_ + 8, table); }
  // A chain from the pointer at `bucket`, with its nulls marker.
  void chain(Kva bucket, std::initializer_list<std::uint64_t> numbers, bool locked = false) {
    Kva place = bucket;
    for (const std::uint64_t n : numbers) {
      kernel_.put(place, node(n));
      place = node(n);
    }
    if (place != bucket) kernel_.put(place, bucket.value() | 1);
    if (locked) {
      ReadBudget budget = ample();
      kernel_.put(bucket, *kernel_.read<std::uint64_t>(bucket, budget) | 1);
    }
  }
  RhashtableContents walk(const RhashtableLimits& limits = {}) {
    ReadBudget budget = ample();
    return walk_rhashtable(kernel_, budget, rhashtable_, kOffsets, limits);
  }
  std::vector<Kva> nodes(std::initializer_list<std::uint64_t> numbers) const {
    std::vector<Kva> all;
    for (const std::uint64_t n : numbers) all.push_back(node(n));
    return all;
  }

  MockKernel kernel_{1 << 18};
  Kva rhashtable_ = MockKernel::at(0x100);
  Kva table_ = MockKernel::at(0x1000);
  Kva future_ = MockKernel::at(0x2000);
};

TEST_F(RhashtableTest, NeverInitialised) {
  const auto contents = walk();
  EXPECT_TRUE(contents.nodes.empty());
  ASSERT_EQ(contents.breaks.kept.size(), 1u);
  EXPECT_EQ(contents.breaks.kept[0].kind, Kind::kUninitialised);
}

TEST_F(RhashtableTest, AllBucketsLockedOrNot) {
  make_table(table_, 128);
  use(table_);
  chain(bucket(table_, 0), {1, 2, 3});
  chain(bucket(table_, 1), {}, true);
  chain(bucket(table_, 63), {4}, true);
  chain(bucket(table_, 64), {5});
  chain(bucket(table_, 127), {6, 7});
  const auto contents = walk();
  EXPECT_EQ(contents.nodes, nodes({1, 2, 3, 4, 5, 6, 7}));
  EXPECT_TRUE(contents.breaks.empty());
  EXPECT_EQ(contents.tables, 1);
}

TEST_F(RhashtableTest, ResizeInEachState) {
  make_table(table_, 4);
  make_table(future_, 8);
  kernel_.put(table_ + 0x28, future_);
  use(table_);
  // 1 -> 2 in the old table, 3 and 4 moved; 2 is just linked into the new chain, before 3.
  chain(bucket(table_, 0), {1, 2});
  chain(bucket(future_, 1), {2, 3});
  chain(bucket(future_, 7), {4});
  const auto contents = walk();
  EXPECT_EQ(contents.nodes, nodes({1, 2, 3, 4}));
  EXPECT_TRUE(contents.breaks.empty());
  EXPECT_EQ(contents.tables, 2);
}

TEST_F(RhashtableTest, BreakInTheFutureTable) {
  make_table(table_, 4);
  make_table(future_, 4);
  kernel_.put(table_ + 0x28, future_);
  use(table_);
  kernel_.put(bucket(future_, 1), Kva(0xffffc90000000000));
  chain(bucket(future_, 2), {5});
  const auto contents = walk();
  EXPECT_EQ(contents.nodes, nodes({5}));
  ASSERT_EQ(contents.breaks.kept.size(), 1u);
  EXPECT_EQ(contents.breaks.kept[0].kind, Kind::kFault);
  EXPECT_EQ(contents.breaks.kept[0].path, "future_tbl.buckets[1]");
}

TEST_F(RhashtableTest, TablesThatGoInACircle) {
  make_table(table_, 4);
  make_table(future_, 4);
  kernel_.put(table_ + 0x28, future_);
  kernel_.put(future_ + 0x28, table_);
  use(table_);
  chain(bucket(table_, 0), {1});
  auto contents = walk();
  EXPECT_EQ(contents.nodes, nodes({1}));
  ASSERT_EQ(contents.breaks.kept.size(), 1u);
  EXPECT_EQ(contents.breaks.kept[0].kind, Kind::kCycle);
  EXPECT_EQ(contents.breaks.kept[0].path, "future_tbl.future_tbl");

  for (std::uint64_t n = 0; n < 8; ++n) {
    make_table(MockKernel::at(0x2000 + n * 0x100), 4);
    kernel_.put(MockKernel::at(0x2000 + n * 0x100) + 0x28, MockKernel::at(0x2100 + n * 0x100));
  }
  contents = walk();
  ASSERT_EQ(contents.breaks.kept.size(), 1u);
  EXPECT_EQ(contents.breaks.kept[0].kind, Kind::kLimit);
  EXPECT_EQ(contents.tables, 4);
}

// Two levels: 16 buckets below each of two pointers; and three: 512 pages of 2.
TEST_F(RhashtableTest, NestedTables) {
  const Kva top = MockKernel::at(0x10000);
  const Kva leaf0 = MockKernel::at(0x11000);
  const Kva leaf1 = MockKernel::at(0x12000);
  make_table(table_, 32, 1);
  use(table_);
  kernel_.put(bucket(table_, 0), top);
  kernel_.put_words(top, {leaf0.value(), leaf1.value()});
  chain(leaf0, {1});
  chain(leaf1 + 8 * 15, {2, 3});
  kernel_.put(leaf1 + 8 * 3, Kva(0xdead000000000100));
  auto contents = walk();
  EXPECT_EQ(contents.nodes, nodes({1, 2, 3}));
  ASSERT_EQ(contents.breaks.kept.size(), 1u);
  EXPECT_EQ(contents.breaks.kept[0].kind, Kind::kPoison);
  EXPECT_EQ(contents.breaks.kept[0].path, "buckets[7]");  // hash: low bit chooses the page, 3 above

  make_table(table_, 2048, 1);
  kernel_.put_words(top, {leaf0.value(), 0});
  kernel_.put(leaf0, Kva());
  kernel_.put(leaf0 + 8 * 511, leaf1);
  kernel_.put(leaf1 + 8 * 3, Kva());
  kernel_.put(leaf1 + 8 * 15, Kva());
  chain(leaf1 + 8, {9});
  contents = walk();
  EXPECT_EQ(contents.nodes, nodes({9}));
  EXPECT_TRUE(contents.breaks.empty());
}

TEST_F(RhashtableTest, DamagedChains) {
  make_table(table_, 8);
  use(table_);
  chain(bucket(table_, 0), {1, 2});
  kernel_.put(node(2), node(1));  // circle
  chain(bucket(table_, 1), {3});
  kernel_.put(node(3), Kva());
  chain(bucket(table_, 2), {4});
  kernel_.put(node(4), Kva(0x6b6b6b6b6b6b6b6a));
  chain(bucket(table_, 3), {5, 6});
  kernel_.put(node(6), node(4));  // into another chain, but nothing is being resized
  chain(bucket(table_, 4), {7});
  const auto contents = walk();
  EXPECT_EQ(contents.nodes, nodes({1, 2, 3, 4, 5, 6, 7}));
  ASSERT_EQ(contents.breaks.kept.size(), 4u);
  EXPECT_EQ(contents.breaks.kept[0].kind, Kind::kCycle);
  EXPECT_EQ(contents.breaks.kept[1].kind, Kind::kNull);
  EXPECT_EQ(contents.breaks.kept[1].path, "buckets[1]");
  EXPECT_EQ(contents.breaks.kept[2].kind, Kind::kMalformed);
  EXPECT_EQ(contents.breaks.kept[3].kind, Kind::kCycle);
}

TEST_F(RhashtableTest, ImpossibleTables) {
  use(table_);
  make_table(table_, 12);
  EXPECT_EQ(walk().breaks.kept.at(0).kind, Kind::kMalformed);
  make_table(table_, 0x80000000);
  EXPECT_EQ(walk().breaks.kept.at(0).kind, Kind::kLimit);
  make_table(table_, 64, 10);
  EXPECT_EQ(walk().breaks.kept.at(0).path, "nest");
  make_table(table_, 4, 3);
  EXPECT_EQ(walk().breaks.kept.at(0).path, "nest");
  use(table_ + 2);
  EXPECT_EQ(walk().breaks.kept.at(0).to_string(),
            "tbl: malformed at 0xffff888000100100: found 0xffff888000101002");
  use(Kva(0x1000));
  EXPECT_EQ(walk().breaks.kept.at(0).kind, Kind::kFault);
}

TEST_F(RhashtableTest, Limits) {
  make_table(table_, 4);
  use(table_);
  chain(bucket(table_, 0), {1, 2, 3, 4});
  chain(bucket(table_, 1), {5});
  auto contents = walk({.chain = 3});
  EXPECT_EQ(contents.nodes, nodes({1, 2, 3, 5}));
  EXPECT_EQ(contents.breaks.kept.at(0).kind, Kind::kLimit);
  contents = walk({.nodes = 2});
  EXPECT_EQ(contents.nodes, nodes({1, 2}));
  ASSERT_EQ(contents.breaks.kept.size(), 1u);
  ReadBudget small(1 << 10, 6);
  contents = walk_rhashtable(kernel_, small, rhashtable_, kOffsets);
  EXPECT_EQ(contents.nodes, nodes({1}));
  ASSERT_EQ(contents.breaks.kept.size(), 1u);
  EXPECT_EQ(contents.breaks.kept[0].fault->kind, Fault::Kind::kBudget);
}

TEST_F(RhashtableTest, ManyBreaksAreCounted) {
  make_table(table_, 128);
  use(table_);
  for (std::uint64_t n = 0; n < 128; ++n) kernel_.put(bucket(table_, n), Kva(0x10));
  const auto contents = walk();
  EXPECT_EQ(contents.breaks.kept.size(), 32u);
  EXPECT_EQ(contents.breaks.left_out, 96u);
}

}  // namespace
}  // namespace ktstr
