#include "host/inspect/walk/list.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/inspect/mock_kernel.h"

namespace ktstr {
namespace {

using Kind = ListBreak::Kind;

// A sound list of `count` nodes, and the kernel's own steps of changing it, one store at a time.
class ListTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kMax = 1000;

  Kva node(std::size_t n) const { return MockKernel::at(0x100 + n * 0x40); }
  void set_next(Kva of, Kva to) { kernel_.put(of, to); }
  void set_prev(Kva of, Kva to) { kernel_.put(of + 8, to); }
  void link(Kva a, Kva b) {
    set_next(a, b);
    set_prev(b, a);
  }
  void make(std::size_t count) {
    Kva from = head_;
    for (std::size_t n = 0; n < count; ++n) {
      link(from, node(n));
      from = node(n);
    }
    link(from, head_);
  }
  ListContents walk(std::uint64_t max = kMax) {
    ReadBudget budget = ample();
    return walk_list(kernel_, budget, head_, max);
  }
  std::vector<Kva> nodes(std::initializer_list<std::size_t> numbers) const {
    std::vector<Kva> all;
    for (const std::size_t n : numbers) all.push_back(node(n));
    return all;
  }

  MockKernel kernel_;
  Kva head_ = MockKernel::at(0x40);
};

TEST_F(ListTest, EmptyAndUninitialised) {
  make(0);
  EXPECT_TRUE(walk().nodes.empty());
  EXPECT_FALSE(walk().broken);
  set_next(head_, Kva());
  set_prev(head_, Kva());
  ASSERT_TRUE(walk().broken);
  EXPECT_EQ(walk().broken->kind, Kind::kUninitialised);
}

TEST_F(ListTest, InOrderOneReadEach) {
  make(5);
  const auto list = walk();
  EXPECT_EQ(list.nodes, nodes({0, 1, 2, 3, 4}));
  EXPECT_EQ(list.forward, 5u);
  EXPECT_FALSE(list.broken);
  EXPECT_EQ(kernel_.reads(), 6u);
}

TEST_F(ListTest, HeadThatWasRead) {
  make(2);
  ReadBudget budget = ample();
  const auto list = walk_list(kernel_, budget, head_, ListHead{node(0), node(1)}, kMax);
  EXPECT_EQ(list.nodes, nodes({0, 1}));
  EXPECT_FALSE(list.broken);
}

// __list_add(new, prev, next): next->prev, new->next, new->prev, prev->next, in this order.
TEST_F(ListTest, StoppedInListAdd) {
  for (int done = 0; done <= 4; ++done) {
    make(4);
    const Kva added = node(9);
    set_next(added, Kva(0x1234560));
    set_prev(added, Kva(0x1234560));
    if (done >= 1) set_prev(node(2), added);
    if (done >= 2) set_next(added, node(2));
    if (done >= 3) set_prev(added, node(1));
    if (done >= 4) set_next(node(1), added);
    const auto list = walk();
    switch (done) {
      case 0:
        EXPECT_FALSE(list.broken);
        break;
      case 1:
        ASSERT_TRUE(list.broken);
        EXPECT_EQ(list.broken->kind, Kind::kTorn);
        EXPECT_EQ(list.broken->node, node(2));
        EXPECT_EQ(list.broken->found, added.value());
        EXPECT_EQ(list.broken->expected, node(1).value());
        EXPECT_EQ(list.nodes, nodes({0, 1, 2, 3}));
        EXPECT_EQ(list.forward, 2u);
        break;
      case 2:
      case 3:
        ASSERT_TRUE(list.broken);
        EXPECT_EQ(list.nodes, nodes({0, 1, 9, 2, 3}));
        EXPECT_EQ(list.forward, 2u);
        break;
      default:
        EXPECT_FALSE(list.broken);
        EXPECT_EQ(list.nodes, nodes({0, 1, 9, 2, 3}));
    }
  }
}

TEST_F(ListTest, StoppedInListAddTail) {
  make(2);
  set_prev(head_, node(2));
  set_next(node(2), head_);
  set_prev(node(2), node(1));
  const auto list = walk();
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kTorn);
  EXPECT_EQ(list.broken->node, head_);
  EXPECT_EQ(list.nodes, nodes({0, 1, 2}));
  EXPECT_EQ(list.forward, 2u);
}

TEST_F(ListTest, StoppedInListDel) {
  make(4);
  set_prev(node(2), node(0));
  const auto list = walk();
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kTorn);
  EXPECT_EQ(list.nodes, nodes({0, 1, 2, 3}));
  EXPECT_EQ(list.forward, 2u);
}

TEST_F(ListTest, DeletedAndFreedNodes) {
  make(4);
  kernel_.put(node(2), std::uint64_t{0xdead000000000100});
  kernel_.put(node(2) + 8, std::uint64_t{0xdead000000000122});
  auto list = walk();
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kPoison);
  EXPECT_EQ(list.broken->node, node(2));
  EXPECT_EQ(list.nodes, nodes({0, 1, 3}));

  make(4);
  kernel_.put(node(1), std::uint64_t{0x6b6b6b6b6b6b6b6b});
  list = walk();
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kPoison);
  EXPECT_EQ(list.broken->found, 0x6b6b6b6b6b6b6b6b);
  EXPECT_EQ(list.nodes, nodes({0, 1, 2, 3}));
  EXPECT_EQ(list.forward, 2u);
}

TEST_F(ListTest, NullMisalignedAndUnreadableLinks) {
  make(3);
  set_next(node(0), Kva());
  EXPECT_EQ(walk().broken->kind, Kind::kNull);
  EXPECT_EQ(walk().broken->node, node(0));
  EXPECT_EQ(walk().nodes, nodes({0, 1, 2}));

  set_next(node(0), node(1) + 1);
  EXPECT_EQ(walk().broken->kind, Kind::kMalformed);

  set_next(node(0), Kva(0xffffc90000000000));
  const auto list = walk();
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kFault);
  ASSERT_TRUE(list.broken->fault);
  EXPECT_EQ(list.broken->fault->kva, Kva(0xffffc90000000000));
  EXPECT_EQ(list.nodes, nodes({0, 1, 2}));
}

TEST_F(ListTest, UnreadableHead) {
  ReadBudget budget = ample();
  const auto list = walk_list(kernel_, budget, Kva(0x10), kMax);
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kFault);
  EXPECT_EQ(list.broken->node, Kva(0x10));
}

TEST_F(ListTest, Cycle) {
  make(4);
  set_next(node(3), node(1));  // never comes home
  const auto list = walk();
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kCycle);
  EXPECT_EQ(list.broken->node, node(1));
  EXPECT_EQ(list.nodes, nodes({0, 1, 2, 3}));
}

TEST_F(ListTest, LimitsAndBudget) {
  make(10);
  auto list = walk(4);
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kLimit);
  EXPECT_EQ(list.nodes, nodes({0, 1, 2, 3}));
  EXPECT_FALSE(walk(10).broken);

  ReadBudget small(1000, 4);
  list = walk_list(kernel_, small, head_, kMax);
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.broken->kind, Kind::kFault);
  EXPECT_EQ(list.broken->fault->kind, Fault::Kind::kBudget);
  EXPECT_EQ(list.nodes.size(), 3u);
}

TEST_F(ListTest, BrokenTwice) {
  make(6);
  set_prev(node(2), node(0));
  set_next(node(4), node(2));
  const auto list = walk();
  ASSERT_TRUE(list.broken);
  EXPECT_EQ(list.nodes, nodes({0, 1, 5}));
  EXPECT_EQ(list.forward, 2u);
}

TEST_F(ListTest, Text) {
  make(3);
  set_prev(node(1), Kva());
  const std::string text = walk().broken->to_string();
  EXPECT_EQ(text, "torn at 0xffff888000100140: points back to 0x0 instead of 0xffff888000100100");
}

}  // namespace
}  // namespace ktstr
