#include "host/inspect/walk/object_tree.h"

#include <vector>

#include <gtest/gtest.h>

#include "host/inspect/walk/kva_set.h"
#include "host/inspect/walk/llist.h"
#include "tests/unit/inspect/mock_kernel.h"

namespace ktstr {
namespace {

using Kind = WalkBreak::Kind;

constexpr TreeOffsets kOffsets = {.children = 0x10, .sibling = 0x20};

class ObjectTreeTest : public ::testing::Test {
 protected:
  ObjectTreeTest() {
    // 0 has 1, 2, 3; 2 has 4, 5; 5 has 6.
    children(0, {1, 2, 3});
    children(1, {});
    children(2, {4, 5});
    children(3, {});
    children(4, {});
    children(5, {6});
    children(6, {});
  }
  Kva object(std::uint64_t n) const { return MockKernel::at(0x1000 + n * 0x100); }
  void children(std::uint64_t of, std::initializer_list<std::uint64_t> numbers) {
    Kva from = object(of) + 0x10;
    const auto link = [this, &from](Kva to) {
      kernel_.put(from, to);
      kernel_.put(to + 8, from);
      from = to;
    };
    for (const std::uint64_t n : numbers) link(object(n) + 0x20);
    link(object(of) + 0x10);
  }
  ObjectTree walk(std::uint64_t max = 100) {
    ReadBudget budget = ample();
    return walk_object_tree(kernel_, budget, object(0), kOffsets, max);
  }
  std::vector<Kva> objects(const ObjectTree& tree) const {
    std::vector<Kva> all;
    for (const TreeObject& o : tree.objects) all.push_back(o.object);
    return all;
  }

  MockKernel kernel_;
};

TEST_F(ObjectTreeTest, LevelByLevel) {
  const auto tree = walk();
  EXPECT_TRUE(tree.breaks.empty());
  ASSERT_EQ(tree.objects.size(), 7u);
  for (std::uint64_t n = 0; n < 7; ++n) EXPECT_EQ(tree.objects[n].object, object(n));
  EXPECT_EQ(tree.objects[6], (TreeObject{.object = object(6), .parent = 5, .depth = 3}));
  EXPECT_EQ(tree.objects[4], (TreeObject{.object = object(4), .parent = 2, .depth = 2}));
}

TEST_F(ObjectTreeTest, ObjectThatIsItsOwnDescendant) {
  children(6, {2});  // moves 2 below its own grandchild
  const auto tree = walk();
  EXPECT_FALSE(tree.breaks.empty());
  EXPECT_EQ(tree.breaks.kept.at(0).path, "children of 0xffff888000101000");
  EXPECT_EQ(tree.breaks.kept.at(0).kind, Kind::kTorn);
  EXPECT_LE(tree.objects.size(), 7u);
  children(0, {1});
  kernel_.put_words(object(1) + 0x10, {(object(0) + 0x20).value(), (object(0) + 0x20).value()});
  kernel_.put_words(object(0) + 0x20, {(object(1) + 0x10).value(), (object(1) + 0x10).value()});
  EXPECT_EQ(walk().breaks.kept.at(0).kind, Kind::kCycle);
}

TEST_F(ObjectTreeTest, BreaksAndLimits) {
  kernel_.put_words(object(3) + 0x10, {0, 0});  // no children yet
  EXPECT_TRUE(walk().breaks.empty());
  kernel_.put_words(object(2) + 0x10, {1, 1});
  auto tree = walk();
  EXPECT_EQ(tree.objects.size(), 4u);
  EXPECT_EQ(tree.breaks.kept.at(0).to_string(),
            "children of 0xffff888000101200: malformed at 0xffff888000101210: found 0x1");
  EXPECT_EQ(walk(3).objects.size(), 3u);
  EXPECT_EQ(walk(3).breaks.kept.at(0).kind, Kind::kLimit);
  EXPECT_TRUE(walk(0).objects.empty());
}

TEST(LlistTest, NewestFirst) {
  MockKernel kernel;
  ReadBudget budget = ample();
  const Kva head = MockKernel::at(0);
  EXPECT_TRUE(walk_llist(kernel, budget, head, 10).nodes.empty());
  const std::vector<Kva> nodes = {MockKernel::at(0x40), MockKernel::at(0x20), MockKernel::at(0x80)};
  kernel.put(head, nodes[0]);
  kernel.put(nodes[0], nodes[1]);
  kernel.put(nodes[1], nodes[2]);
  auto list = walk_llist(kernel, budget, head, 10);
  EXPECT_EQ(list.nodes, nodes);
  EXPECT_FALSE(list.broken);
  list = walk_llist(kernel, budget, head, 2);
  EXPECT_EQ(list.nodes.size(), 2u);
  EXPECT_EQ(list.broken->kind, Kind::kLimit);
  kernel.put(nodes[2], nodes[0]);
  EXPECT_EQ(walk_llist(kernel, budget, head, 10).broken->kind, Kind::kCycle);
  EXPECT_EQ(walk_llist(kernel, budget, head, 10).nodes, nodes);
  kernel.put(nodes[1], Kva(0x1000));
  list = walk_llist(kernel, budget, head, 10);
  EXPECT_EQ(list.broken->kind, Kind::kFault);
  EXPECT_EQ(list.nodes.size(), 2u);
  kernel.put(nodes[1], std::uint64_t{0xdead000000000100});
  EXPECT_EQ(walk_llist(kernel, budget, head, 10).broken->kind, Kind::kPoison);
  EXPECT_EQ(walk_llist(kernel, budget, Kva(3), 10).broken->node, Kva(3));
}

TEST(KvaSetTest, RemembersAll) {
  KvaSet set;
  EXPECT_FALSE(set.contains(Kva()));
  for (std::uint64_t n = 0; n < 10000; ++n) EXPECT_TRUE(set.insert(Kva(n * 64)));
  for (std::uint64_t n = 0; n < 10000; ++n) EXPECT_FALSE(set.insert(Kva(n * 64)));
  EXPECT_EQ(set.size(), 10000u);
  EXPECT_TRUE(set.contains(Kva(64)));
  EXPECT_FALSE(set.contains(Kva(65)));
}

}  // namespace
}  // namespace ktstr
