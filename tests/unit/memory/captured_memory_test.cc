#include "host/memory/captured_memory.h"

#include <cstring>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

constexpr Kva kBase{0xffff888000000000};

// Every byte has a value that follows from its address; the last page of the address space has none.
class Pattern : public KernelReader {
 public:
  using KernelReader::read;
  static std::byte at(Kva kva) { return static_cast<std::byte>(kva.value() * 7 + (kva.value() >> 8)); }

  FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) override {
    if (!budget.spend(out.size()))
      return std::unexpected(Fault{.kind = Fault::Kind::kBudget, .kva = kva, .gpa = {}, .size = out.size()});
    if (kva.value() >= ~std::uint64_t{4095})
      return std::unexpected(
          Fault{.kind = Fault::Kind::kNotMapped, .kva = kva, .gpa = {}, .size = out.size()});
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = at(kva + i);
    return {};
  }
  FaultOr<GuestString> read_c_string(Kva, std::size_t, ReadBudget&) override { return GuestString{}; }
};

class CapturedMemoryTest : public testing::Test {
 protected:
  CapturedMemoryTest() { EXPECT_TRUE(memory_.prepare(0)); }

  bool capture(std::uint64_t offset, std::size_t size) {
    return memory_.capture(source_, kBase + offset, size, budget_).has_value();
  }
  // Whether [offset, offset + size) can be read, and is what it should be.
  testing::AssertionResult reads(std::uint64_t offset, std::size_t size) {
    std::vector<std::byte> out(size);
    const auto done = memory_.read(kBase + offset, out, budget_);
    if (!done) return testing::AssertionFailure() << done.error().to_string();
    for (std::size_t i = 0; i < size; ++i) {
      if (out[i] != Pattern::at(kBase + offset + i)) return testing::AssertionFailure() << "byte " << i;
    }
    return testing::AssertionSuccess();
  }
  Fault fault_of(std::uint64_t offset, std::size_t size) {
    std::vector<std::byte> out(size);
    const auto done = memory_.read(kBase + offset, out, budget_);
    return done ? Fault{} : done.error();
  }

  Pattern source_;
  CapturedMemory memory_;
  ReadBudget budget_{std::uint64_t{1} << 30, 1 << 20};
};

TEST_F(CapturedMemoryTest, OverlappingAndNestedBlocks) {
  EXPECT_TRUE(capture(100, 50));
  EXPECT_TRUE(capture(120, 100));
  EXPECT_TRUE(capture(0, 1000));
  EXPECT_TRUE(capture(500, 10));
  EXPECT_TRUE(capture(500, 1));
  EXPECT_TRUE(capture(990, 30));
  memory_.seal();
  for (const std::size_t size : {1u, 7u, 40u, 100u, 500u}) {
    for (std::uint64_t offset = 0; offset + size <= 1020; offset += 3)
      EXPECT_TRUE(reads(offset, size)) << offset;
  }
  EXPECT_TRUE(reads(0, 1020));
  EXPECT_EQ(fault_of(0, 1021).kind, Fault::Kind::kNotCaptured);
  EXPECT_EQ(fault_of(0, 1021).kva, kBase + 1020);
  EXPECT_EQ(memory_.objects(), 6u);
  EXPECT_EQ(memory_.bytes(), 1191u);
}

TEST_F(CapturedMemoryTest, SeamsAndGaps) {
  EXPECT_TRUE(capture(64, 64));
  EXPECT_TRUE(capture(0, 64));
  EXPECT_TRUE(capture(129, 10));
  memory_.seal();
  EXPECT_TRUE(reads(0, 128));
  EXPECT_TRUE(reads(60, 8));
  EXPECT_EQ(fault_of(120, 16).kva, kBase + 128);
  EXPECT_EQ(fault_of(128, 1).kind, Fault::Kind::kNotCaptured);
  EXPECT_TRUE(reads(129, 10));
  EXPECT_EQ(fault_of(139, 1).kind, Fault::Kind::kNotCaptured);
  EXPECT_TRUE(reads(5000, 0));
}

TEST_F(CapturedMemoryTest, Strings) {
  // The pattern has a zero wherever 7 x + x / 256 is a multiple of 256: here at 0.
  std::uint64_t zero = 1;
  while (Pattern::at(kBase + zero) != std::byte{0}) ++zero;
  const std::uint64_t begin = zero - 20;
  EXPECT_TRUE(capture(begin, 10));
  EXPECT_TRUE(capture(begin + 10, 11));
  memory_.seal();
  auto text = memory_.read_c_string(kBase + begin, 100, budget_);
  ASSERT_TRUE(text);
  EXPECT_EQ(text->text.size(), 20u);
  EXPECT_TRUE(text->terminated);
  text = memory_.read_c_string(kBase + begin, 15, budget_);
  ASSERT_TRUE(text);
  EXPECT_EQ(text->text.size(), 15u);
  EXPECT_FALSE(text->terminated);
  EXPECT_EQ(memory_.read_c_string(kBase + begin + 5000, 15, budget_).error().kind, Fault::Kind::kNotCaptured);
  EXPECT_TRUE(memory_.read_c_string(kBase, 0, budget_));
}

TEST_F(CapturedMemoryTest, UnsealedMemoryGivesNothing) {
  EXPECT_TRUE(capture(0, 8));
  EXPECT_EQ(fault_of(0, 8).kind, Fault::Kind::kNotCaptured);
  memory_.seal();
  EXPECT_TRUE(reads(0, 8));
  EXPECT_TRUE(memory_.prepare(0));
  EXPECT_EQ(memory_.objects(), 0u);
  EXPECT_EQ(fault_of(0, 8).kind, Fault::Kind::kNotCaptured);
  EXPECT_TRUE(capture(8, 8));
  memory_.seal();
  EXPECT_TRUE(reads(8, 8));
  EXPECT_EQ(fault_of(0, 8).kind, Fault::Kind::kNotCaptured);
}

TEST_F(CapturedMemoryTest, WhatCannotBeReadIsNotKept) {
  const Kva last(~std::uint64_t{4095});
  EXPECT_FALSE(memory_.capture(source_, last, 8, budget_));
  EXPECT_EQ(memory_.capture(source_, Kva(~std::uint64_t{0}), 8, budget_).error().kind, Fault::Kind::kWraps);
  EXPECT_EQ(memory_.bytes(), 0u);
  EXPECT_EQ(memory_.objects(), 0u);
  ReadBudget none(0, 0);
  EXPECT_EQ(memory_.capture(source_, kBase, 8, none).error().kind, Fault::Kind::kBudget);
  memory_.seal();
  EXPECT_EQ(memory_.read<std::uint64_t>(kBase, none).error().kind, Fault::Kind::kBudget);
}

TEST_F(CapturedMemoryTest, TheLimit) {
  EXPECT_EQ(memory_.capture(source_, kBase, CapturedMemory::kMaxBytes + 1, budget_).error().kind,
            Fault::Kind::kBudget);
  EXPECT_EQ(memory_.capture(source_, kBase, ~std::size_t{0}, budget_).error().kind, Fault::Kind::kBudget);
  EXPECT_EQ(memory_.bytes(), 0u);
  CapturedMemory never;  // not prepared: there is no room at all
  EXPECT_EQ(never.capture(source_, kBase, 1, budget_).error().kind, Fault::Kind::kBudget);
}

TEST_F(CapturedMemoryTest, Moves) {
  EXPECT_TRUE(capture(0, 100));
  memory_.seal();
  CapturedMemory other(std::move(memory_));
  EXPECT_EQ(other.bytes(), 100u);
  std::vector<std::byte> out(100);
  EXPECT_TRUE(other.read(kBase, out, budget_));
  memory_ = std::move(other);
  EXPECT_TRUE(reads(0, 100));
  CapturedMemory& same = memory_;
  memory_ = std::move(same);
  EXPECT_TRUE(reads(0, 100));
  memory_.clear();
  EXPECT_EQ(fault_of(0, 1).kind, Fault::Kind::kNotCaptured);
  EXPECT_TRUE(memory_.prepare(10'000));
  EXPECT_TRUE(capture(0, 9000));
  memory_.seal();
  EXPECT_TRUE(reads(0, 9000));
}

}  // namespace
}  // namespace ktstr
