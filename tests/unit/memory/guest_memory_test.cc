#include "host/memory/guest_memory.h"

#include <array>

#include <gtest/gtest.h>

#include "host/memory/mock_memory.h"

namespace ktstr {
namespace {

class GuestMemoryTest : public testing::Test {
 protected:
  MockMemory mock_;
  ReadBudget budget_{1 << 20, 1 << 10};
};

TEST_F(GuestMemoryTest, ReadsValuesOfEverySizeAtAnyAlignment) {
  mock_.add_ram(Gpa(0x1000), 0x1000);
  for (unsigned i = 0; i < 32; ++i) mock_.write_value(Gpa(0x1000 + i), static_cast<std::uint8_t>(i));
  const GuestMemory memory = mock_.memory();
  EXPECT_EQ(memory.read<std::uint8_t>(Gpa(0x1003), budget_), 3);
  EXPECT_EQ(memory.read<std::uint16_t>(Gpa(0x1002), budget_), 0x0302);
  EXPECT_EQ(memory.read<std::uint16_t>(Gpa(0x1003), budget_), 0x0403);
  EXPECT_EQ(memory.read<std::uint32_t>(Gpa(0x1004), budget_), 0x07060504u);
  EXPECT_EQ(memory.read<std::uint32_t>(Gpa(0x1005), budget_), 0x08070605u);
  EXPECT_EQ(memory.read<std::uint64_t>(Gpa(0x1008), budget_), 0x0f0e0d0c0b0a0908u);
  EXPECT_EQ(memory.read<std::uint64_t>(Gpa(0x1001), budget_), 0x0807060504030201u);
  EXPECT_EQ(memory.read<Kva>(Gpa(0x1008), budget_), Kva(0x0f0e0d0c0b0a0908));
  struct Pair {
    std::uint32_t a, b;
  };
  EXPECT_EQ(memory.read<Pair>(Gpa(0x1000), budget_)->b, 0x07060504u);
}

TEST_F(GuestMemoryTest, SeesWhatTheGuestWritesLater) {
  mock_.add_ram(Gpa(0), 16);
  const GuestMemory memory = mock_.memory();
  EXPECT_EQ(memory.read<int>(Gpa(0), budget_), 0);
  mock_.write_value(Gpa(0), 7);
  EXPECT_EQ(memory.read<int>(Gpa(0), budget_), 7);
}

TEST_F(GuestMemoryTest, ReadsAcrossAdjacentRegions) {
  mock_.add_ram(Gpa(0x1000), 0x10);
  mock_.add_ram(Gpa(0x1010), 0x1);
  mock_.add_ram(Gpa(0x1011), 0x10);
  mock_.write_text(Gpa(0x100d), "abc");
  mock_.write_text(Gpa(0x1010), "d");
  mock_.write_text(Gpa(0x1011), "efgh");
  std::array<char, 8> text;
  ASSERT_TRUE(mock_.memory().read(Gpa(0x100d), std::as_writable_bytes(std::span(text)), budget_));
  EXPECT_EQ(std::string_view(text.data(), text.size()), "abcdefgh");
  EXPECT_EQ(mock_.memory().read_c_string(Gpa(0x100d), 100, budget_), (GuestString{"abcdefgh", true}));
}

TEST_F(GuestMemoryTest, FaultNamesTheFirstByteThatIsNotRam) {
  mock_.add_ram(Gpa(0x1000), 0x1000);
  mock_.add_ram(Gpa(0x3000), 0x1000);
  const GuestMemory memory = mock_.memory();
  const auto hole = memory.read<std::uint64_t>(Gpa(0x1ffc), budget_);
  ASSERT_FALSE(hole);
  EXPECT_EQ(hole.error(), (Fault{.kind = Fault::Kind::kNotRam, .kva = {}, .gpa = Gpa(0x2000), .size = 8}));
  EXPECT_EQ(memory.read<std::uint8_t>(Gpa(0xfff), budget_).error().gpa, Gpa(0xfff));
  EXPECT_EQ(memory.read<std::uint8_t>(Gpa(0x4000), budget_).error().gpa, Gpa(0x4000));
  EXPECT_FALSE(memory.read<std::uint8_t>(Gpa(~0ull), budget_));
  EXPECT_FALSE(memory.read<std::uint64_t>(Gpa(~0ull - 3), budget_));
  EXPECT_FALSE(GuestMemory().read<std::uint8_t>(Gpa(0), budget_));
}

TEST_F(GuestMemoryTest, ReadingNothingIsNeverAFault) {
  ReadBudget none(0, 0);
  EXPECT_TRUE(GuestMemory().read(Gpa(~0ull), {}, none));
  EXPECT_EQ(GuestMemory().read_c_string(Gpa(5), 0, none), (GuestString{"", false}));
}

TEST_F(GuestMemoryTest, StringsEndAtTheZeroOrTheLimit) {
  mock_.add_ram(Gpa(0x1000), 0x1000);
  mock_.write_text(Gpa(0x1100), "scx_lavd");
  mock_.write_text(Gpa(0x1200), std::string(200, 'x'));
  const GuestMemory memory = mock_.memory();
  EXPECT_EQ(memory.read_c_string(Gpa(0x1100), 16, budget_), (GuestString{"scx_lavd", true}));
  EXPECT_EQ(memory.read_c_string(Gpa(0x1100), 9, budget_), (GuestString{"scx_lavd", true}));
  EXPECT_EQ(memory.read_c_string(Gpa(0x1100), 8, budget_), (GuestString{"scx_lavd", false}));
  EXPECT_EQ(memory.read_c_string(Gpa(0x1000), 8, budget_), (GuestString{"", true}));
  EXPECT_EQ(memory.read_c_string(Gpa(0x1200), SIZE_MAX, budget_), (GuestString{std::string(200, 'x'), true}));
  EXPECT_EQ(memory.read_c_string(Gpa(0x1200), 130, budget_), (GuestString{std::string(130, 'x'), false}));
}

TEST_F(GuestMemoryTest, AStringMayEndWithTheLastByteOfRam) {
  mock_.add_ram(Gpa(0x1000), 0x1000);
  mock_.write_text(Gpa(0x1ffc), "abc");
  EXPECT_EQ(mock_.memory().read_c_string(Gpa(0x1ffc), 64, budget_), (GuestString{"abc", true}));
  mock_.write_text(Gpa(0x1fff), "d");
  const auto cut = mock_.memory().read_c_string(Gpa(0x1ffc), 64, budget_);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error(), (Fault{.kind = Fault::Kind::kNotRam,
                                .access = Fault::Access::kString,
                                .kva = {},
                                .gpa = Gpa(0x2000),
                                .size = 64}));
  EXPECT_EQ(mock_.memory().read_c_string(Gpa(0x1ffc), 4, budget_), (GuestString{"abcd", false}));
}

TEST_F(GuestMemoryTest, AnEndlessStringEndsWithTheBudget) {
  mock_.add_ram(Gpa(0), 0x10000);
  mock_.write_text(Gpa(0), std::string(0x10000, 'x'));
  ReadBudget small(1000, 1000);
  const auto text = mock_.memory().read_c_string(Gpa(0), SIZE_MAX, small);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().kind, Fault::Kind::kBudget);
  EXPECT_TRUE(small.exhausted());
}

TEST_F(GuestMemoryTest, EveryReadIsPaidFor) {
  mock_.add_ram(Gpa(0), 64);
  const GuestMemory memory = mock_.memory();
  ReadBudget small(12, 5);
  EXPECT_TRUE(memory.read<std::uint64_t>(Gpa(0), small));
  EXPECT_EQ(small.bytes_left(), 4u);
  EXPECT_EQ(small.reads_left(), 4u);
  const auto refused = memory.read<std::uint64_t>(Gpa(0), small);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), (Fault{.kind = Fault::Kind::kBudget, .kva = {}, .gpa = Gpa(0), .size = 8}));
  EXPECT_FALSE(memory.read<std::uint8_t>(Gpa(0), small));
}

TEST_F(GuestMemoryTest, RegionsComeInAnyOrder) {
  const std::array<std::byte, 4> low{std::byte{1}}, high{std::byte{2}};
  const auto memory = GuestMemory::create({{.gpa = Gpa(0x100000000), .bytes = high},
                                           {.gpa = Gpa(9), .bytes = {}},
                                           {.gpa = Gpa(0), .bytes = low}});
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->read<std::uint8_t>(Gpa(0), budget_), 1);
  EXPECT_EQ(memory->read<std::uint8_t>(Gpa(0x100000000), budget_), 2);
  EXPECT_EQ(memory->total_bytes(), 8u);
  EXPECT_EQ(memory->ram_left(Gpa(1)), 3u);
  EXPECT_EQ(memory->ram_left(Gpa(4)), 0u);
  EXPECT_EQ(memory->ram_left(Gpa(9)), 0u);
}

TEST_F(GuestMemoryTest, RefusesRegionsThatOverlapOrLieBeyondTheLastAddress) {
  const std::array<std::byte, 16> bytes{};
  const auto overlap =
      GuestMemory::create({{.gpa = Gpa(0x18), .bytes = bytes}, {.gpa = Gpa(0x9), .bytes = bytes}});
  ASSERT_FALSE(overlap);
  EXPECT_EQ(overlap.error().code(), ErrorCode::kUsage);
  EXPECT_EQ(overlap.error().message(),
            "guest memory: the region at 0x18 begins inside the one before it, which ends at 0x19");
  EXPECT_FALSE(GuestMemory::create({{.gpa = Gpa(8), .bytes = bytes}, {.gpa = Gpa(8), .bytes = bytes}}));
  EXPECT_TRUE(GuestMemory::create({{.gpa = Gpa(8), .bytes = bytes}, {.gpa = Gpa(24), .bytes = bytes}}));
  EXPECT_TRUE(GuestMemory::create({{.gpa = Gpa(GuestMemory::kAddressLimit - 16), .bytes = bytes}}));
  EXPECT_FALSE(GuestMemory::create({{.gpa = Gpa(GuestMemory::kAddressLimit - 15), .bytes = bytes}}));
  EXPECT_FALSE(GuestMemory::create({{.gpa = Gpa(~0ull - 7), .bytes = bytes}}));
}

}  // namespace
}  // namespace ktstr
