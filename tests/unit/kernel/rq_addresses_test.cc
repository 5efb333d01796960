#include "host/kernel/rq_addresses.h"

#include <array>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

// PAGE_OFFSET of a kernel without randomised memory regions.
constexpr std::uint64_t kPageOffset = 0xffff888000000000;

TEST(RqAddresses, ComputesThreeCpus) {
  const std::array<std::uint64_t, 3> offsets{kPageOffset + 0x100000, kPageOffset + 0x140000,
                                             kPageOffset + 0x180000};
  const ScxAnchors anchors = compute_scx_anchors(
      {.runqueues = 0x200000, .scx_root = Kva(0xffffffff82300000), .scx_tasks = Kva(0xffffffff82400000)},
      offsets, kPageOffset);
  EXPECT_EQ(anchors.scx_root, Kva(0xffffffff82300000));
  EXPECT_EQ(anchors.scx_tasks, Kva(0xffffffff82400000));
  EXPECT_EQ(anchors.rqs.pas, (std::vector{Gpa(0x300000), Gpa(0x340000), Gpa(0x380000)}));
  EXPECT_EQ(anchors.rqs.kvas, (std::vector{Kva(kPageOffset + 0x300000), Kva(kPageOffset + 0x340000),
                                           Kva(kPageOffset + 0x380000)}));
}

TEST(RqAddresses, PlainOffsetsWrapBelowTheDirectMap) {
  // Offsets that are no addresses: nothing is checked, nothing is lost.
  const std::array<std::uint64_t, 3> offsets{0x100000, 0x140000, 0x180000};
  const RqAddresses rqs = compute_rq_addresses(0x200000, offsets, kPageOffset);
  EXPECT_EQ(rqs.kvas, (std::vector{Kva(0x300000), Kva(0x340000), Kva(0x380000)}));
  EXPECT_EQ(rqs.pas[0], Gpa(0x300000 - kPageOffset));
}

TEST(RqAddresses, KernelWithoutSchedExtStillHasRunQueues) {
  const std::array<std::uint64_t, 2> offsets{kPageOffset + 0x100000, kPageOffset + 0x140000};
  const ScxAnchors anchors =
      compute_scx_anchors({.runqueues = 0x200000, .scx_root = {}, .scx_tasks = {}}, offsets, kPageOffset);
  EXPECT_EQ(anchors.scx_root, Kva());
  EXPECT_EQ(anchors.scx_tasks, Kva());
  EXPECT_EQ(anchors.rqs.kvas.size(), 2u);
  EXPECT_EQ(anchors.rqs.pas.size(), 2u);
}

TEST(RqAddresses, WithoutTheListOfTasksTheRestStands) {
  const std::array<std::uint64_t, 1> offsets{kPageOffset};
  const ScxAnchors anchors = compute_scx_anchors(
      {.runqueues = 0x200000, .scx_root = Kva(0xffffffff82300000), .scx_tasks = {}}, offsets, kPageOffset);
  EXPECT_EQ(anchors.scx_root, Kva(0xffffffff82300000));
  EXPECT_EQ(anchors.scx_tasks, Kva());
  EXPECT_EQ(anchors.rqs.pas, std::vector{Gpa(0x200000)});
}

TEST(RqAddresses, WithoutPerCpuOffsetsTheSymbolsStand) {
  const ScxAnchors anchors = compute_scx_anchors(
      {.runqueues = 0x200000, .scx_root = Kva(0xffffffff82300000), .scx_tasks = Kva(0xffffffff82400000)},
      std::nullopt, kPageOffset);
  EXPECT_TRUE(anchors.rqs.kvas.empty());
  EXPECT_TRUE(anchors.rqs.pas.empty());
  EXPECT_EQ(anchors.scx_root, Kva(0xffffffff82300000));
  EXPECT_EQ(anchors.scx_tasks, Kva(0xffffffff82400000));
}

TEST(RqAddresses, TasksAloneAreEnough) {
  const ScxAnchors anchors =
      compute_scx_anchors({.runqueues = 0x200000, .scx_root = {}, .scx_tasks = Kva(0xffffffff82e5e840)},
                          std::nullopt, kPageOffset);
  EXPECT_EQ(anchors.scx_root, Kva());
  EXPECT_EQ(anchors.scx_tasks, Kva(0xffffffff82e5e840));
  EXPECT_TRUE(anchors.rqs.kvas.empty());
}

TEST(RqAddresses, NoCpusGiveNoRunQueues) {
  const ScxAnchors anchors =
      compute_scx_anchors({.runqueues = 0x200000, .scx_root = Kva(0xffffffff82300000), .scx_tasks = {}},
                          std::span<const std::uint64_t>(), kPageOffset);
  EXPECT_TRUE(anchors.rqs.kvas.empty());
  EXPECT_TRUE(anchors.rqs.pas.empty());
  EXPECT_EQ(anchors.scx_root, Kva(0xffffffff82300000));
}

TEST(RqAddresses, TheDirectMapsBeginIsPhysicalZero) {
  const std::array<std::uint64_t, 1> offsets{kPageOffset - 0x1000};
  const RqAddresses rqs = compute_rq_addresses(0x1000, offsets, kPageOffset);
  EXPECT_EQ(rqs.pas, std::vector{Gpa(0)});
  EXPECT_EQ(rqs.kvas, std::vector{Kva(kPageOffset)});
}

TEST(RqAddresses, SumsWrapWhereTheSectionIsNotLinkedAtZero) {
  // Kernels from 6.15 on: the symbol is an address of the kernel's image, the offset leads from there to the
  // copy.
  constexpr std::uint64_t kSymbol = 0xffffffff83a00000;
  const std::array<std::uint64_t, 1> offsets{kPageOffset + 0x3f000000 - kSymbol};
  const RqAddresses rqs = compute_rq_addresses(kSymbol, offsets, kPageOffset);
  EXPECT_EQ(rqs.pas, std::vector{Gpa(0x3f000000)});
  EXPECT_EQ(rqs.kvas, std::vector{Kva(kPageOffset + 0x3f000000)});
}

TEST(RqAddresses, BothListsBelongTogether) {
  std::vector<std::uint64_t> offsets;
  for (std::uint64_t cpu = 0; cpu < 5; ++cpu) offsets.push_back(kPageOffset + 0x3e000000 + cpu * 0x40000);
  const RqAddresses rqs = compute_rq_addresses(0x40000, offsets, kPageOffset);
  ASSERT_EQ(rqs.kvas.size(), 5u);
  ASSERT_EQ(rqs.pas.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(rqs.kvas[i].value(), rqs.pas[i].value() + kPageOffset) << i;
}

}  // namespace
}  // namespace ktstr
