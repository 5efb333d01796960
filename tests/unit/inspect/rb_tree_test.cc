#include "host/inspect/walk/rb_tree.h"

#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/inspect/mock_kernel.h"

namespace ktstr {
namespace {

using Kind = WalkBreak::Kind;

class RbTreeTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};

  Kva node(std::uint64_t n) const { return n == kNone ? Kva() : MockKernel::at(0x1000 + n * 0x40); }
  void set(std::uint64_t n, std::uint64_t parent, std::uint64_t left, std::uint64_t right) {
    kernel_.put_words(node(n), {node(parent).value() | (n & 1), node(right).value(), node(left).value()});
  }
  // A balanced tree of [begin, end); returns its top.
  std::uint64_t make(std::uint64_t begin, std::uint64_t end, std::uint64_t parent) {
    if (begin == end) return kNone;
    const std::uint64_t middle = begin + (end - begin) / 2;
    const std::uint64_t left = make(begin, middle, middle);
    const std::uint64_t right = make(middle + 1, end, middle);
    set(middle, parent, left, right);
    return middle;
  }
  void make(std::uint64_t count) { kernel_.put(root_, node(make(0, count, kNone))); }
  RbTreeContents walk(std::uint64_t max = 10000) {
    ReadBudget budget = ample();
    return walk_rb_tree(kernel_, budget, root_, max);
  }
  std::vector<Kva> range(std::uint64_t begin, std::uint64_t end) const {
    std::vector<Kva> nodes;
    for (std::uint64_t n = begin; n < end; ++n) nodes.push_back(node(n));
    return nodes;
  }

  MockKernel kernel_{1 << 18};
  Kva root_ = MockKernel::at(0x100);
};

TEST_F(RbTreeTest, InOrderOneReadEach) {
  EXPECT_TRUE(walk().nodes.empty());
  EXPECT_FALSE(walk().broken);
  for (const std::uint64_t count : {1u, 2u, 3u, 7u, 1000u}) {
    make(count);
    const std::size_t before = kernel_.reads();
    const auto tree = walk();
    EXPECT_EQ(kernel_.reads() - before, count + 1);
    EXPECT_EQ(tree.nodes, range(0, count));
    EXPECT_FALSE(tree.broken);
  }
}

// Leans to the right all the way: that needs no stack.
TEST_F(RbTreeTest, Degenerate) {
  kernel_.put(root_, node(0));
  for (std::uint64_t n = 0; n < 1000; ++n) set(n, n == 0 ? kNone : n - 1, kNone, n == 999 ? kNone : n + 1);
  EXPECT_EQ(walk().nodes, range(0, 1000));
  EXPECT_FALSE(walk().broken);
  for (std::uint64_t n = 0; n < 1000; ++n) set(n, n == 0 ? kNone : n - 1, n == 999 ? kNone : n + 1, kNone);
  const auto tree = walk();
  EXPECT_EQ(tree.nodes.size(), kMaxRbDepth);
  ASSERT_TRUE(tree.broken);
  EXPECT_EQ(tree.broken->kind, Kind::kMalformed);
}

TEST_F(RbTreeTest, TornParentGoesOn) {
  make(15);
  kernel_.put(node(3), node(12).value());
  const auto tree = walk();
  EXPECT_EQ(tree.nodes, range(0, 15));
  ASSERT_TRUE(tree.broken);
  EXPECT_EQ(tree.broken->kind, Kind::kTorn);
  EXPECT_EQ(tree.broken->node, node(3));
  EXPECT_EQ(tree.broken->expected, node(7).value());
  EXPECT_EQ(tree.breaks, 1u);
}

TEST_F(RbTreeTest, BrokenLinks) {
  make(7);                            // 3 is the top, below it 1 and 5
  kernel_.put(node(1) + 8, node(3));  // right child is an ancestor
  auto tree = walk();
  EXPECT_EQ(tree.broken->kind, Kind::kCycle);
  EXPECT_EQ(tree.nodes, (std::vector<Kva>{node(0), node(1), node(3), node(4), node(5), node(6)}));

  kernel_.put(node(1) + 8, std::uint64_t{0x6b6b6b6b6b6b6b6b});
  EXPECT_EQ(walk().broken->kind, Kind::kPoison);
  kernel_.put(node(1) + 8, Kva(0x1000));
  EXPECT_EQ(walk().broken->kind, Kind::kFault);
  EXPECT_EQ(walk().nodes.size(), 6u);
  kernel_.put(node(1) + 8, node(2) + 4);
  EXPECT_EQ(walk().broken->kind, Kind::kMalformed);
  // Both children the same node.
  kernel_.put(node(1) + 8, node(0));
  EXPECT_EQ(walk().broken->kind, Kind::kCycle);
  EXPECT_EQ(walk().nodes.size(), 6u);
}

TEST_F(RbTreeTest, LimitsAndBudget) {
  make(100);
  auto tree = walk(10);
  EXPECT_EQ(tree.nodes.size(), 10u);
  EXPECT_EQ(tree.broken->kind, Kind::kLimit);
  EXPECT_FALSE(walk(100).broken);
  ReadBudget small(1 << 10, 5);
  tree = walk_rb_tree(kernel_, small, root_, 100);
  EXPECT_EQ(tree.nodes.size(), 4u);
  EXPECT_EQ(tree.broken->fault->kind, Fault::Kind::kBudget);
  ReadBudget budget = ample();
  EXPECT_EQ(walk_rb_tree(kernel_, budget, Kva(8), 100).broken->kind, Kind::kFault);
}

}  // namespace
}  // namespace ktstr
