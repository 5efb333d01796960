#include "host/kernel/symbol_table.h"

#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace ktstr::test {
namespace {

constexpr std::uint64_t kBase = 0xffffffff81000000;
constexpr AddressRange kExtent{.begin = kBase, .end = kBase + 0x1000};

SymbolTable small_table() {
  SymbolTable::Builder builder(0);
  EXPECT_TRUE(builder.add("runqueues", 0x5000));
  EXPECT_TRUE(builder.add("_text", kBase));
  EXPECT_TRUE(builder.add("startup", kBase));
  EXPECT_TRUE(builder.add("twin", kBase + 0x10));
  EXPECT_TRUE(builder.add("twin", kBase + 0x10));
  EXPECT_TRUE(builder.add("same", kBase + 0x20));
  EXPECT_TRUE(builder.add("work.isra.0", kBase + 0x30));
  EXPECT_TRUE(builder.add("work.isra.0.cold", kBase + 0x38));
  EXPECT_TRUE(builder.add("workers", kBase + 0x3c));
  EXPECT_TRUE(builder.add("same", kBase + 0x40));
  return std::move(builder).finish(SymbolSource::kKallsyms, "a test", kExtent);
}

TEST(SymbolTable, FindsNames) {
  const SymbolTable table = small_table();
  EXPECT_EQ(table.size(), 10u);
  EXPECT_EQ(table.address("_text").value(), kBase);
  EXPECT_EQ(table.find("runqueues"), 0x5000u);
  EXPECT_FALSE(table.find("run"));
  EXPECT_FALSE(table.find(""));
  const auto absent = table.address("nothing\n");
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code(), ErrorCode::kKernelLacks);
  EXPECT_EQ(absent.error().message(), "the kernel has no symbol 'nothing\\n', says a test");
}

TEST(SymbolTable, DoesNotGuessAmongAmbiguousNames) {
  const SymbolTable table = small_table();
  EXPECT_FALSE(table.find("same"));
  EXPECT_EQ(table.addresses("same"), (std::vector<std::uint64_t>{kBase + 0x20, kBase + 0x40}));
  const auto address = table.address("same");
  ASSERT_FALSE(address);
  EXPECT_EQ(address.error().code(), ErrorCode::kKernelLacks);
  EXPECT_EQ(address.error().message(),
            "the symbol 'same' is ambiguous: a test has 2 of that name, at 0xffffffff81000020, "
            "0xffffffff81000040");
  EXPECT_EQ(table.lacks("same"),
            "same stands for 2 symbols of the kernel, and which one is meant is not known");
  EXPECT_EQ(table.lacks("nothing, same"), table.lacks("same"));
  EXPECT_EQ(table.lacks("nothing"), "the kernel has no symbol nothing");
  // Twice at one address is no ambiguity.
  EXPECT_EQ(table.find("twin"), kBase + 0x10);
  EXPECT_EQ(table.count_ambiguous(), 1u);
}

TEST(SymbolTable, FindsTheSymbolOfAnAddress) {
  const SymbolTable table = small_table();
  const auto at = table.nearest(kBase + 0x23);
  ASSERT_TRUE(at);
  EXPECT_EQ(at->name, "same");
  EXPECT_EQ(at->address, kBase + 0x20);
  EXPECT_EQ(at->offset, 3u);
  EXPECT_EQ(table.nearest(kBase)->name, "_text");
  EXPECT_EQ(table.nearest(kBase + 0xfff)->name, "same");
  EXPECT_FALSE(table.nearest(kBase + 0x1000));
  EXPECT_FALSE(table.nearest(kBase - 1));
  EXPECT_FALSE(table.nearest(0x5001)) << "a per-CPU offset is no address";
  EXPECT_FALSE(table.nearest(UINT64_MAX));
}

TEST(SymbolTable, FindsWhatTheCompilerMadeOfAFunction) {
  const SymbolTable table = small_table();
  const auto found = table.variants("work");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].name, "work.isra.0");
  EXPECT_EQ(found[0].address, kBase + 0x30);
  EXPECT_TRUE(table.variants("wor").empty());
}

TEST(SymbolTable, EmptyHasNothing) {
  const SymbolTable table;
  EXPECT_EQ(table.size(), 0u);
  EXPECT_FALSE(table.find("x"));
  EXPECT_FALSE(table.nearest(kBase));
  EXPECT_EQ(table.count_ambiguous(), 0u);
  const SymbolTable built = SymbolTable::Builder(5).finish(SymbolSource::kKallsyms, "none", kExtent);
  EXPECT_FALSE(built.find("x"));
  EXPECT_FALSE(built.nearest(kBase));
}

TEST(SymbolTable, RefusesWhatItCannotHold) {
  SymbolTable::Builder builder(SIZE_MAX);
  EXPECT_TRUE(builder.add(std::string(SymbolTable::kMaxName, 'a'), kBase));
  EXPECT_FALSE(builder.add("below", kBase - 1));
  EXPECT_FALSE(builder.add("", kBase));
  EXPECT_FALSE(builder.add(std::string(SymbolTable::kMaxName + 1, 'a'), kBase));
  EXPECT_EQ(std::move(builder).finish(SymbolSource::kKallsyms, "one", kExtent).size(), 1u);
}

TEST(SymbolTable, FindsEveryOneOfMany) {
  constexpr std::uint64_t kCount = 3000;
  SymbolTable::Builder builder(10);
  for (std::uint64_t i = 0; i < kCount; ++i) ASSERT_TRUE(builder.add("f" + std::to_string(i), kBase + i));
  const SymbolTable table = std::move(builder).finish(SymbolSource::kKallsyms, "many", kExtent);
  for (std::uint64_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(table.find("f" + std::to_string(i)), kBase + i);
    ASSERT_EQ(table.name(i), "f" + std::to_string(i));
  }
  EXPECT_FALSE(table.find("f3000"));
  EXPECT_LT(table.memory(), kCount * 60);
}

}  // namespace
}  // namespace ktstr::test
