#include "host/memory/kernel_memory.h"

#include <string>

#include <gtest/gtest.h>

#include "host/memory/mock_memory.h"
#include "host/memory/page_table_builder.h"

namespace ktstr {
namespace {

constexpr Kva kDirectMap{0xffff9a4740000000};
constexpr Kva kMapBase{0xffffffff80000000};
constexpr Kva kVmalloc{0xffffb1e000000000};

// RAM: 1 MiB to 1 MiB + 256 KiB, the page tables in its second half; a hole; 64 KiB more at 2 MiB.
class KernelMemoryTest : public testing::Test {
 protected:
  KernelMemoryTest() {
    mock_.add_ram(Gpa(0x100000), 0x40000);
    mock_.add_ram(Gpa(0x200000), 0x10000);
  }

  KernelMemory kernel() const {
    return KernelMemory(mock_.memory(),
                        {.direct_map = KernelLayout::DirectMap{.base = kDirectMap, .size = 0x210000},
                         .image = KernelLayout::Image{.begin = kMapBase + 0x21000000,
                                                      .size = 0x10000,
                                                      .map_base = kMapBase,
                                                      .physical_base = 0x108000 - 0x21000000},
                         .page_tables = tables_.walk()});
  }

  MockMemory mock_;
  PageTableBuilder tables_{mock_, Gpa(0x120000), PagingLevels::kFour};
  ReadBudget budget_{1 << 20, 1 << 12};
};

TEST_F(KernelMemoryTest, ReadsTheDirectMapByShift) {
  mock_.write_value(Gpa(0x100008), Kva(0xffff9a4740100008));
  EXPECT_EQ(kernel().read<Kva>(kDirectMap + 0x100008, budget_), kDirectMap + 0x100008);
  EXPECT_EQ(budget_.reads_left(), (1u << 12) - 1);
  EXPECT_EQ(kernel().translate(kDirectMap + 0x123456, budget_), Gpa(0x123456));
}

TEST_F(KernelMemoryTest, AHoleInTheDirectMapIsNotRam) {
  const auto value = kernel().read<std::uint64_t>(kDirectMap + 0x13fffc, budget_);
  ASSERT_FALSE(value);
  EXPECT_EQ(
      value.error(),
      (Fault{.kind = Fault::Kind::kNotRam, .kva = kDirectMap + 0x140000, .gpa = Gpa(0x140000), .size = 8}));
}

TEST_F(KernelMemoryTest, ReadsTheImageWithANegativePhysicalBase) {
  mock_.write_value(Gpa(0x108010), 0x1234);
  EXPECT_EQ(kernel().read<int>(kMapBase + 0x21000010, budget_), 0x1234);
  EXPECT_EQ(kernel().translate(kMapBase + 0x2100ffff, budget_), Gpa(0x117fff));
}

TEST_F(KernelMemoryTest, ReadsTheImageWithAPositivePhysicalBase) {
  mock_.write_value(Gpa(0x200010), 0x4321);
  KernelMemory kernel(mock_.memory(), {.direct_map = {},
                                       .image = KernelLayout::Image{.begin = kMapBase + 0x100000,
                                                                    .size = 0x1000,
                                                                    .map_base = kMapBase,
                                                                    .physical_base = 0x100000},
                                       .page_tables = {}});
  EXPECT_EQ(kernel.read<int>(kMapBase + 0x100010, budget_), 0x4321);
}

TEST_F(KernelMemoryTest, APhysicalBaseThatLeadsBelowZeroIsNotRam) {
  mock_.add_ram(Gpa(0), 0x1000);
  KernelMemory kernel(mock_.memory(), {.direct_map = {},
                                       .image = KernelLayout::Image{.begin = kMapBase,
                                                                    .size = 0x2000,
                                                                    .map_base = kMapBase,
                                                                    .physical_base = -0x1000},
                                       .page_tables = {}});
  EXPECT_TRUE(kernel.read<std::uint64_t>(kMapBase + 0x1000, budget_));
  const auto value = kernel.read<std::uint64_t>(kMapBase + 0xffc, budget_);
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().kind, Fault::Kind::kNotRam);
  EXPECT_EQ(value.error().gpa, Gpa(0xfffffffffffffffc));
}

TEST_F(KernelMemoryTest, EverythingElseGoesThroughThePageTables) {
  tables_.map(kVmalloc, Gpa(0x203000));
  mock_.write_value(Gpa(0x203008), 99);
  EXPECT_EQ(kernel().read<int>(kVmalloc + 8, budget_), 99);
  // Right behind the image, where modules are.
  tables_.map(kMapBase + 0x21010000, Gpa(0x203000));
  EXPECT_EQ(kernel().read<int>(kMapBase + 0x21010008, budget_), 99);
  const auto absent = kernel().read<int>(kVmalloc + 0x1000, budget_);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().kind, Fault::Kind::kNotMapped);
  EXPECT_EQ(absent.error().level, 1u);
  EXPECT_EQ(absent.error().kva, kVmalloc + 0x1000);
}

TEST_F(KernelMemoryTest, ReadsAcrossPagesThatAreNotAdjacentInPhysicalMemory) {
  tables_.map(kVmalloc, Gpa(0x203000));
  tables_.map(kVmalloc + 0x1000, Gpa(0x101000));
  tables_.map(kVmalloc + 0x2000, Gpa(0x205000));
  mock_.write_text(Gpa(0x203ffe), "ab");
  mock_.write_text(Gpa(0x101000), std::string(0x1000, 'm'));
  mock_.write_text(Gpa(0x205000), "yz");
  const std::string expected = "ab" + std::string(0x1000, 'm') + "yz";
  std::string text(expected.size(), '\0');
  KernelMemory kernel = this->kernel();
  ASSERT_TRUE(kernel.read(kVmalloc + 0xffe, std::as_writable_bytes(std::span(text)), budget_));
  EXPECT_EQ(text, expected);
  EXPECT_EQ(kernel.read_c_string(kVmalloc + 0xffe, 10000, budget_), (GuestString{expected, true}));
  EXPECT_EQ(kernel.read_c_string(kVmalloc + 0xffe, 2, budget_), (GuestString{"ab", false}));
}

TEST_F(KernelMemoryTest, AFaultInTheSecondPageNamesIt) {
  tables_.map(kVmalloc, Gpa(0x203000));
  const auto value = kernel().read<std::uint64_t>(kVmalloc + 0xffc, budget_);
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().kind, Fault::Kind::kNotMapped);
  EXPECT_EQ(value.error().kva, kVmalloc + 0x1000);
  mock_.write_text(Gpa(0x203ffc), "abcd");
  const auto text = kernel().read_c_string(kVmalloc + 0xffc, 16, budget_);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().kva, kVmalloc + 0x1000);
  // A string that ends with the page does not need the next one.
  mock_.write_value(Gpa(0x203fff), '\0');
  EXPECT_EQ(kernel().read_c_string(kVmalloc + 0xffc, 16, budget_), (GuestString{"abc", true}));
}

TEST_F(KernelMemoryTest, RemembersTranslationsUntilTheyAreDropped) {
  tables_.map(kVmalloc, Gpa(0x203000));
  mock_.write_value(Gpa(0x203000), 1);
  mock_.write_value(Gpa(0x204000), 2);
  KernelMemory kernel = this->kernel();
  EXPECT_EQ(kernel.read<int>(kVmalloc, budget_), 1);
  const std::uint64_t before = budget_.reads_left();
  EXPECT_EQ(kernel.read<int>(kVmalloc, budget_), 1);
  EXPECT_EQ(before - budget_.reads_left(), 1u);

  tables_.map(kVmalloc, Gpa(0x204000));
  EXPECT_EQ(kernel.read<int>(kVmalloc, budget_), 1);
  kernel.drop_translations();
  EXPECT_EQ(kernel.read<int>(kVmalloc, budget_), 2);
}

TEST_F(KernelMemoryTest, PagesThatShareACacheSlotDoNotMix) {
  // More pages than are remembered, close together and far apart.
  KernelMemory kernel = this->kernel();
  const auto gpa_of = [](std::uint64_t at) { return Gpa(0x200000 + (at * 7 % 16 << 12)); };
  const auto kva_of = [](std::uint64_t at) {
    return at < 400 ? kVmalloc + (at << 12) : kVmalloc + (at << 24);
  };
  for (std::uint64_t at = 0; at < 410; ++at) tables_.map(kva_of(at), gpa_of(at));
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t at = 0; at < 410; ++at)
      EXPECT_EQ(kernel.translate(kva_of(at) + 5, budget_), gpa_of(at) + 5);
  }
}

TEST_F(KernelMemoryTest, AbsentPageTablesAreAReason) {
  KernelMemory kernel(mock_.memory(), {});
  const auto value = kernel.read<int>(kVmalloc, budget_);
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error(),
            (Fault{.kind = Fault::Kind::kNoPageTables, .kva = kVmalloc, .gpa = {}, .size = 4}));
}

TEST_F(KernelMemoryTest, SizesThatReachPastTheLastAddressAreCut) {
  mock_.add_ram(Gpa(0), 0x10000);
  KernelMemory kernel(mock_.memory(),
                      {.direct_map = KernelLayout::DirectMap{.base = Kva(0xffffffffffffff00), .size = ~0ull},
                       .image = {},
                       .page_tables = {}});
  EXPECT_TRUE(kernel.read<std::uint8_t>(Kva(~0ull), budget_));
  EXPECT_EQ(kernel.read<std::uint8_t>(Kva(0), budget_).error().kind, Fault::Kind::kNoPageTables);
  mock_.write_text(Gpa(0), std::string(0x1000, 'x'));
  EXPECT_EQ(kernel.read_c_string(Kva(0xfffffffffffffff0), 0x100, budget_).error().kind, Fault::Kind::kWraps);
}

TEST_F(KernelMemoryTest, PoisonAndNullPointersAreFaults) {
  KernelMemory kernel = this->kernel();
  EXPECT_EQ(kernel.read<int>(Kva(0), budget_).error().kind, Fault::Kind::kNotMapped);
  EXPECT_EQ(kernel.read<int>(Kva(0xdead000000000100), budget_).error().kind, Fault::Kind::kNotCanonical);
  EXPECT_EQ(kernel.read<int>(Kva(0x6b6b6b6b6b6b6b6b), budget_).error().kind, Fault::Kind::kNotCanonical);
  EXPECT_EQ(kernel.read<int>(Kva(0xfffffffffffffff2), budget_).error().kind, Fault::Kind::kNotMapped);
  EXPECT_EQ(kernel.read<int>(Kva(0xfffffffffffffffe), budget_).error().kind, Fault::Kind::kWraps);
}

}  // namespace
}  // namespace ktstr
