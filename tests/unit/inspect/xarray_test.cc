#include "host/inspect/walk/xarray.h"

#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/inspect/mock_kernel.h"

namespace ktstr {
namespace {

using Kind = WalkBreak::Kind;

constexpr XarrayOffsets kOffsets = {
    .head = 8, .node_shift = 0, .node_offset = 1, .node_parent = 8, .node_slots = 0x28, .slots = 64};

class XarrayTest : public ::testing::Test {
 protected:
  Kva node(std::uint64_t n) const { return MockKernel::at(0x1000 + n * 0x400); }
  Kva thing(std::uint64_t n) const { return MockKernel::at(0x10000 + n * 0x10); }
  void make_node(std::uint64_t n, std::uint8_t shift, Kva parent = Kva(), std::uint8_t offset = 0) {
    kernel_.put(node(n), shift);
    kernel_.put(node(n) + 1, offset);
    kernel_.put(node(n) + 8, parent);
  }
  void set(std::uint64_t n, std::uint64_t slot, std::uint64_t entry) {
    kernel_.put(node(n) + 0x28 + slot * 8, entry);
  }
  void set_head(std::uint64_t entry) { kernel_.put(xarray_ + 8, entry); }
  std::uint64_t to_node(std::uint64_t n) const { return node(n).value() + 2; }
  XarrayContents walk(std::uint64_t max = 1000) {
    ReadBudget budget = ample();
    return walk_xarray(kernel_, budget, xarray_, kOffsets, max);
  }

  MockKernel kernel_{1 << 18};
  Kva xarray_ = MockKernel::at(0x100);
};

TEST_F(XarrayTest, EmptyAndSingle) {
  EXPECT_TRUE(walk().entries.empty());
  EXPECT_TRUE(walk().breaks.empty());
  set_head(thing(1).value());
  EXPECT_EQ(walk().entries, (std::vector<XarrayEntry>{{0, thing(1).value()}}));
}

TEST_F(XarrayTest, TwoLevelsWithAllKinds) {
  make_node(0, 6);
  make_node(1, 0, node(0), 0);
  make_node(2, 0, node(0), 63);
  set_head(to_node(0));
  set(0, 0, to_node(1));
  set(0, 63, to_node(2));
  set(0, 5, thing(9).value());  // an entry for 64 indices
  set(0, 6, 5 << 2 | 2);        // its sibling
  set(1, 0, 77 << 1 | 1);
  set(1, 1, 256 << 2 | 2);  // retry
  set(1, 2, 257 << 2 | 2);  // reserved
  set(2, 63, thing(3).value());
  const auto contents = walk();
  EXPECT_TRUE(contents.breaks.empty());
  ASSERT_EQ(contents.entries.size(), 4u);
  EXPECT_EQ(contents.entries[0].index, 0u);
  EXPECT_TRUE(contents.entries[0].is_value());
  EXPECT_EQ(contents.entries[0].value(), 77u);
  EXPECT_EQ(contents.entries[1].index, 2u);
  EXPECT_TRUE(contents.entries[1].is_reserved());
  EXPECT_EQ(contents.entries[2].index, 5u * 64);
  EXPECT_EQ(contents.entries[3].index, 4095u);
  EXPECT_EQ(contents.entries[3].pointer(), thing(3));
}

TEST_F(XarrayTest, IdrHasABase) {
  make_node(0, 0);
  set_head(to_node(0));
  set(0, 3, thing(1).value());
  kernel_.put(xarray_ + 0x20, std::uint32_t{1});
  ReadBudget budget = ample();
  const auto contents = walk_idr(kernel_, budget, xarray_, {.idr_rt = 0, .idr_base = 0x20}, kOffsets, 100);
  EXPECT_EQ(contents.entries, (std::vector<XarrayEntry>{{4, thing(1).value()}}));
  EXPECT_EQ(walk_idr(kernel_, budget, Kva(), {}, kOffsets, 100).breaks.kept.at(0).path, "idr_base");
}

TEST_F(XarrayTest, Damaged) {
  make_node(0, 6);
  make_node(1, 0, node(5), 1);
  make_node(2, 6, node(0), 2);
  make_node(3, 0, node(0), 9);
  set_head(to_node(0));
  set(0, 1, to_node(1));  // says another parent: torn, walked all the same
  set(1, 4, thing(1).value());
  set(0, 2, to_node(2));                   // no deeper than its parent
  set(0, 3, to_node(3));                   // says another place
  set(0, 4, to_node(0));                   // circle
  set(0, 5, 300 << 2 | 2);                 // no such internal entry
  set(0, 6, 0x6b6b6b6b6b6b6b6b);           // freed
  set(0, 7, Kva(0x70000000).value() + 2);  // cannot be read
  set(0, 8, to_node(1) + 4);               // misaligned
  const auto contents = walk();
  EXPECT_EQ(contents.entries, (std::vector<XarrayEntry>{{68, thing(1).value()}}));
  std::vector<Kind> kinds;
  for (const WalkBreak& broken : contents.breaks) kinds.push_back(broken.kind);
  EXPECT_EQ(kinds, (std::vector<Kind>{Kind::kTorn, Kind::kMalformed, Kind::kTorn, Kind::kCycle,
                                      Kind::kMalformed, Kind::kPoison, Kind::kFault, Kind::kMalformed}));
  EXPECT_EQ(contents.breaks.kept.at(3).path, "slots[4]");
}

TEST_F(XarrayTest, IndicesThatDoNotExist) {
  make_node(0, 60);
  set_head(to_node(0));
  set(0, 15, thing(1).value());
  set(0, 16, thing(2).value());
  const auto contents = walk();
  EXPECT_EQ(contents.entries, (std::vector<XarrayEntry>{{std::uint64_t{15} << 60, thing(1).value()}}));
  EXPECT_EQ(contents.breaks.kept.at(0).kind, Kind::kMalformed);
  make_node(0, 7);
  EXPECT_EQ(walk().breaks.kept.at(0).kind, Kind::kMalformed);
  make_node(0, 66);
  EXPECT_EQ(walk().breaks.kept.at(0).kind, Kind::kMalformed);
}

TEST_F(XarrayTest, LimitsAndBudget) {
  make_node(0, 0);
  set_head(to_node(0));
  for (std::uint64_t n = 0; n < 64; ++n) set(0, n, thing(n).value());
  EXPECT_EQ(walk().entries.size(), 64u);
  EXPECT_EQ(walk(10).entries.size(), 10u);
  EXPECT_EQ(walk(10).breaks.kept.at(0).kind, Kind::kLimit);
  ReadBudget small(1 << 10, 2);
  EXPECT_EQ(walk_xarray(kernel_, small, xarray_, kOffsets, 10).breaks.kept.at(0).fault->kind,
            Fault::Kind::kBudget);
  ReadBudget budget = ample();
  XarrayOffsets odd = kOffsets;
  for (const std::uint64_t slots : {0u, 1u, 3u, 128u}) {
    odd.slots = slots;
    EXPECT_EQ(walk_xarray(kernel_, budget, xarray_, odd, 10).breaks.kept.at(0).kind, Kind::kMalformed);
  }
  odd.slots = 16;
  EXPECT_EQ(walk_xarray(kernel_, budget, xarray_, odd, 100).entries.size(), 16u);
}

}  // namespace
}  // namespace ktstr
