#include "host/kernel/symbol_file.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

namespace fs = std::filesystem;

class SymbolFileTest : public testing::Test {
 protected:
  SymbolFileTest() {
    std::string path = (fs::temp_directory_path() / "symbol-file-XXXXXX").string();
    folder_ = ::mkdtemp(path.data());
    entry_ = folder_ + "/0123.elf";
    SymbolTable::Builder builder(4);
    builder.add("__per_cpu_start", 0);
    for (int i = 0; i < 5000; ++i) builder.add("function_" + std::to_string(i), kBase + 16 * unsigned(i));
    builder.add("twice", kBase + 100'000);
    builder.add("twice", kBase + 100'016);
    table_ = std::move(builder).finish(SymbolSource::kKallsyms, "made", {kBase, kBase + 200'000});
  }
  ~SymbolFileTest() override { fs::remove_all(folder_); }

  std::string file() const { return folder_ + "/0123.sym"; }
  // Overwrites bytes of the file.
  void damage(std::uint64_t offset, const std::string& bytes) {
    fs::permissions(file(), fs::perms::owner_all);
    std::fstream stream(file(), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream << bytes;
  }

  static constexpr std::uint64_t kBase = 0xffffffff81000000;
  std::string folder_, entry_;
  SymbolTable table_;
};

TEST_F(SymbolFileTest, AnswersLikeTheTableItWasMadeOf) {
  EXPECT_FALSE(load_symbols(entry_, "kept"));
  keep_symbols(entry_, table_);
  const auto kept = load_symbols(entry_, "kept");
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->origin(), "the kallsyms embedded in kept");
  EXPECT_EQ(kept->source(), SymbolSource::kKallsyms);
  ASSERT_EQ(kept->size(), table_.size());
  for (std::size_t i = 0; i < kept->size(); ++i) {
    EXPECT_EQ(kept->name(i), table_.name(i));
    EXPECT_EQ(kept->address_at(i), table_.address_at(i));
  }
  EXPECT_EQ(kept->find("function_4711"), kBase + 16 * 4711);
  EXPECT_FALSE(kept->find("function"));
  EXPECT_EQ(kept->addresses("twice").size(), 2u);
  EXPECT_EQ(kept->count_ambiguous(), 1u);
  EXPECT_EQ(kept->nearest(kBase + 17)->name, "function_1");
  EXPECT_FALSE(kept->nearest(kBase - 1));
  // It looks at all names and gives their pages back.
  EXPECT_TRUE(kept->variants("function_1").empty());
  EXPECT_EQ(kept->find("function_1"), kBase + 16);
}

TEST_F(SymbolFileTest, OutlivesTheFileAndItsCopies) {
  keep_symbols(entry_, table_);
  auto kept = load_symbols(entry_, "kept");
  ASSERT_TRUE(kept);
  const SymbolTable copy = *kept;
  kept.reset();
  fs::remove(file());
  EXPECT_EQ(copy.find("function_3"), kBase + 48);
}

TEST_F(SymbolFileTest, ThrowsADamagedFileAwayWhereverTheDamageIs) {
  keep_symbols(entry_, table_);
  const auto size = fs::file_size(file());
  for (std::uint64_t offset = 0; offset < size; offset = offset < 64 ? offset + 8 : offset * 2) {
    keep_symbols(entry_, table_);
    ASSERT_EQ(fs::file_size(file()), size);
    damage(offset, "\xff\x01\xfe");
    EXPECT_FALSE(load_symbols(entry_, "kept")) << offset;
    EXPECT_FALSE(fs::exists(file())) << offset;
  }
  keep_symbols(entry_, table_);
  EXPECT_TRUE(load_symbols(entry_, "kept"));
}

TEST_F(SymbolFileTest, ThrowsATornFileAway) {
  for (const std::uint64_t size : {0u, 8u, 63u, 64u, 65u, 4096u, 100'000u}) {
    keep_symbols(entry_, table_);
    fs::permissions(file(), fs::perms::owner_all);
    fs::resize_file(file(), size);
    EXPECT_FALSE(load_symbols(entry_, "kept")) << size;
    EXPECT_FALSE(fs::exists(file())) << size;
  }
}

TEST_F(SymbolFileTest, NothingIsKeptWithoutAnEntry) {
  keep_symbols("", table_);
  EXPECT_FALSE(load_symbols("", "kept"));
  keep_symbols("/proc/no-such-folder/0123.elf", table_);
  EXPECT_FALSE(load_symbols("/proc/no-such-folder/0123.elf", "kept"));
}

// What no checksum protects from: parts that do not fit together.
TEST_F(SymbolFileTest, PartsThatLeadOutsideAreRefused) {
  const auto owner = std::make_shared<int>(0);
  const auto refused = [&](auto change) {
    SymbolTable::Parts parts = table_.parts();
    std::vector<std::uint32_t> names(parts.names.begin(), parts.names.end());
    std::vector<std::uint32_t> buckets(parts.buckets.begin(), parts.buckets.end());
    std::vector<std::uint32_t> order(parts.order.begin(), parts.order.end());
    change(names, buckets, order);
    parts.names = names, parts.buckets = buckets, parts.order = order;
    return !SymbolTable::from_parts(parts, owner, SymbolSource::kKallsyms, "parts");
  };
  EXPECT_FALSE(refused([](auto&, auto&, auto&) {}));
  EXPECT_TRUE(refused([](auto& names, auto&, auto&) { names[7] = UINT32_MAX; }));
  EXPECT_TRUE(refused([](auto& names, auto&, auto&) { names.back() += 1; }));
  EXPECT_TRUE(refused([](auto& names, auto&, auto&) { names.pop_back(); }));
  EXPECT_TRUE(refused([](auto&, auto& buckets, auto&) { buckets[7] = UINT32_MAX; }));
  EXPECT_TRUE(refused([](auto&, auto& buckets, auto&) { buckets.pop_back(); }));
  EXPECT_TRUE(refused([](auto&, auto&, auto& order) { order[7] = UINT32_MAX; }));
  EXPECT_TRUE(refused([](auto&, auto& buckets, auto&) { buckets.clear(); }));
}

}  // namespace
}  // namespace ktstr
