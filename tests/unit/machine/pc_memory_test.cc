#include "host/machine/tcg/pc_memory.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

using Nodes = std::vector<std::uint64_t>;
using Pieces = std::vector<RamPiece>;

TEST(NodeMemory, SharesAreWholeMiBAndTheLastTakesTheRest) {
  EXPECT_EQ(node_memory({.numa_nodes = 1}, 512 * kMiB), (Nodes{512 * kMiB}));
  EXPECT_EQ(node_memory({.numa_nodes = 3, .llcs = 3}, 1000 * kMiB),
            (Nodes{333 * kMiB, 333 * kMiB, 334 * kMiB}));
}

TEST(PcRamLayout, IsOnePieceBelow3And5GiB) {
  const std::uint64_t size = 3584 * kMiB - kMiB;
  EXPECT_EQ(pc_ram_layout(Nodes{size}), (Pieces{{.gpa = 0, .size = size, .node = 0, .file_offset = 0}}));
}

TEST(PcRamLayout, SplitsAt3GiBFrom3And5GiBOn) {
  EXPECT_EQ(pc_ram_layout(Nodes{3584 * kMiB}),
            (Pieces{{.gpa = 0, .size = 3 * kGiB, .node = 0, .file_offset = 0},
                    {.gpa = 4 * kGiB, .size = 512 * kMiB, .node = 0, .file_offset = 3 * kGiB}}));
}

TEST(PcRamLayout, NodesLieEndToEndAroundTheHole) {
  EXPECT_EQ(pc_ram_layout(Nodes{2 * kGiB, 2 * kGiB, kGiB}),
            (Pieces{{.gpa = 0, .size = 2 * kGiB, .node = 0, .file_offset = 0},
                    {.gpa = 2 * kGiB, .size = kGiB, .node = 1, .file_offset = 0},
                    {.gpa = 4 * kGiB, .size = kGiB, .node = 1, .file_offset = kGiB},
                    {.gpa = 5 * kGiB, .size = kGiB, .node = 2, .file_offset = 0}}));
}

class PcLimits : public ::testing::Test {
 protected:
  // The code of the error, 0 for none.
  static int check(std::uint64_t memory, CpuTopology topology) {
    BootSpec spec;
    spec.memory_bytes = memory;
    spec.topology = topology;
    const auto ok = check_pc_limits(spec);
    return ok ? 0 : static_cast<int>(ok.error().code());
  }
};

TEST_F(PcLimits, AcceptsWhatTheMachineCanHave) {
  EXPECT_EQ(check(512 * kMiB, {1, 1, 2, 1}), 0);
  EXPECT_EQ(check(512 * kMiB, {1, 1, 255, 1}), 0);
  EXPECT_EQ(check(513 * kMiB, {2, 3, 3, 2}), 0);
  EXPECT_EQ(check(kMaxTcgMemory, {1, 1, 1, 1}), 0);
}

TEST_F(PcLimits, TooManyVcpusAreAHostError) {
  EXPECT_EQ(check(kGiB, {1, 1, 256, 1}), 20);
  EXPECT_EQ(check(kGiB, {1, 0xffffffff, 0xffffffff, 0xffffffff}), 2);  // than any machine
}

TEST_F(PcLimits, ApicIdsArePowersOfTwoWide) {
  // 85 vCPUs, but each LLC of 5 takes the room of 8: 17 * 8 > 128 still fits, 40 * 8 does not.
  EXPECT_EQ(check(kGiB, {1, 17, 5, 1}), 0);
  EXPECT_EQ(check(kGiB, {1, 40, 5, 1}), 20);
  // Id 255 is the broadcast address.
  EXPECT_EQ(check(kGiB, {1, 128, 1, 2}), 20);
}

TEST_F(PcLimits, NonsenseIsAUsageError) {
  EXPECT_EQ(check(kGiB, {1, 1, 0, 1}), 2);
  EXPECT_EQ(check(kGiB, {0, 1, 1, 1}), 2);
  EXPECT_EQ(check(kGiB, {3, 2, 1, 1}), 2);
  EXPECT_EQ(check(kGiB + 4096, {1, 1, 1, 1}), 2);
  EXPECT_EQ(check(0, {1, 1, 1, 1}), 2);
  EXPECT_EQ(check(kMinTcgMemory - kMiB, {1, 1, 1, 1}), 2);
}

TEST_F(PcLimits, TooMuchMemoryIsAHostError) {
  EXPECT_EQ(check(kMaxTcgMemory + kMiB, {1, 1, 1, 1}), 20);
}

TEST(PcNodes, NodesThatQemuCannotDescribe) {
  BootSpec spec;
  spec.memory_bytes = 512 * kMiB;
  spec.topology = {.numa_nodes = 3, .llcs = 2};
  spec.topology.nodes.resize(3);
  spec.topology.nodes[0].llcs = spec.topology.nodes[1].llcs = 1;
  EXPECT_TRUE(check_pc_limits(spec));
  std::swap(spec.topology.nodes[1], spec.topology.nodes[2]);
  const auto between = check_pc_limits(spec);
  ASSERT_FALSE(between);
  EXPECT_EQ(between.error().code(), ErrorCode::kHost);
  std::swap(spec.topology.nodes[1], spec.topology.nodes[2]);
  spec.topology.nodes[2].latency_ns = 250;
  spec.topology.nodes[2].bandwidth_mbs = 10000;
  const auto hmat = check_pc_limits(spec);
  ASSERT_FALSE(hmat);
  EXPECT_NE(hmat.error().message().find("kvm"), std::string::npos);
}

}  // namespace
}  // namespace ktstr
