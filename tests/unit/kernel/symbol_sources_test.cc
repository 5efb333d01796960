#include "host/kernel/symbol_sources.h"

#include <fstream>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "host/kernel/kallsyms_decoder.h"
#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/kernel/test_image.h"
#include "tests/unit/kernel/test_kallsyms.h"

namespace ktstr::test {
namespace {

constexpr KallsymsFormat kFormat = KallsymsFormat::kPcRelative;
constexpr AddressRange kExtent{.begin = kTextAddress, .end = kTextAddress + 0x100000};

// A folder with a bzImage in it, and what a test puts beside it.
class SymbolSources : public testing::Test {
 protected:
  void SetUp() override {
    // In make_elf() .text begins after the headers: no symbol is a marker here unless a test makes it one.
    symbols_.front().name = "startup";
    const auto symbols = symbols_;
    options_.rodata = [symbols](std::uint64_t address) { return make_kallsyms(symbols, kFormat, address); };
  }

  std::string write(const std::string& name, const std::string& contents) {
    const std::string path = scratch_.path(name);
    std::ofstream(path, std::ios::binary) << contents;
    return path;
  }

  Expected<KernelSymbols> find(const SymbolFiles& named = {}) {
    const std::string path = write(std::string("vmlinuz-") + kRelease,
                                   make_bzimage(make_payload(make_elf(options_), Compression::kGzip)));
    auto image = KernelImage::open(path, ImageCache(scratch_.path("images")));
    if (!image) return std::unexpected(std::move(image.error()));
    return find_symbols(*image, named);
  }

  // A System.map as the build makes it.
  std::string good_map() const {
    std::string text;
    for (const TestSymbol& symbol : symbols_)
      text += fmt::format("{:016x} T {}\n", symbol.address, symbol.name);
    const std::string elf = make_elf(options_);
    const auto view = ElfView::parse(bytes_of(elf), "'k'").value();
    return fmt::format("{:016x} T _text\n{:016x} A __crc_schedule\n", view.section(".text")->address,
                       0x1234) +
           text;
  }

  ElfOptions vmlinux() const {
    ElfOptions options = options_;
    options.rodata = {};
    options.symbols = symbols_;
    options.symbols.push_back({.name = "only_in_vmlinux", .address = kTextAddress + 0x1800});
    return options;
  }

  ScratchDir scratch_;
  std::vector<TestSymbol> symbols_ = many_symbols(kFormat);
  ElfOptions options_;
};

TEST_F(SymbolSources, TheImageAloneIsEnough) {
  const auto symbols = find();
  ASSERT_TRUE(symbols) << symbols.error().to_string();
  EXPECT_EQ(symbols->table.source(), SymbolSource::kKallsyms);
  EXPECT_EQ(symbols->table.size(), symbols_.size());
  EXPECT_TRUE(symbols->passed_over.empty());
}

TEST_F(SymbolSources, AVmlinuxBesideItComesFirst) {
  write(std::string("System.map-") + kRelease, good_map());
  write(std::string("vmlinux-") + kRelease, make_elf(vmlinux()));
  const auto symbols = find();
  ASSERT_TRUE(symbols) << symbols.error().to_string();
  EXPECT_EQ(symbols->table.source(), SymbolSource::kVmlinux);
  EXPECT_EQ(symbols->table.find("only_in_vmlinux"), kTextAddress + 0x1800);
}

TEST_F(SymbolSources, AVmlinuxOfAnotherBuildIsPassedOverWithBothIds) {
  ElfOptions other = vmlinux();
  other.build_id = "\x99\x98";
  write(std::string("vmlinux-") + kRelease, make_elf(other));
  const auto symbols = find();
  ASSERT_TRUE(symbols) << symbols.error().to_string();
  EXPECT_EQ(symbols->table.source(), SymbolSource::kKallsyms);
  ASSERT_EQ(symbols->passed_over.size(), 1u);
  EXPECT_NE(symbols->passed_over[0].find("its build id is 9998, that of "), std::string::npos);
  EXPECT_NE(symbols->passed_over[0].find(" is 0123456789abcdeffedc"), std::string::npos);

  const auto named = find({.vmlinux = scratch_.path(std::string("vmlinux-") + kRelease), .system_map = ""});
  ASSERT_FALSE(named);
  EXPECT_EQ(named.error().code(), ErrorCode::kUsage);
}

TEST_F(SymbolSources, AVmlinuxWithoutBuildIdIsCompared) {
  ElfOptions same = vmlinux();
  same.build_id = "";
  write(std::string("vmlinux-") + kRelease, make_elf(same));
  EXPECT_EQ(find()->table.source(), SymbolSource::kVmlinux);
  same.symbols[300].address += 1;
  write(std::string("vmlinux-") + kRelease, make_elf(same));
  const auto symbols = find();
  EXPECT_EQ(symbols->table.source(), SymbolSource::kKallsyms);
  ASSERT_EQ(symbols->passed_over.size(), 1u);
  EXPECT_NE(symbols->passed_over[0].find("it has 'symbol_300' at 0xffffffff81000961, the kernel has it at "
                                         "0xffffffff81000960"),
            std::string::npos)
      << symbols->passed_over[0];
}

TEST_F(SymbolSources, AStrippedVmlinuxIsPassedOver) {
  ElfOptions stripped = options_;
  stripped.rodata = {};
  write(std::string("vmlinux-") + kRelease, make_elf(stripped));
  const auto symbols = find();
  ASSERT_TRUE(symbols);
  ASSERT_EQ(symbols->passed_over.size(), 1u);
  EXPECT_NE(symbols->passed_over[0].find("has no symbol table: it was stripped"), std::string::npos);
}

TEST_F(SymbolSources, ASystemMapIsTakenWhenItAgrees) {
  const std::string path = write(std::string("System.map-") + kRelease, good_map());
  auto symbols = find();
  ASSERT_TRUE(symbols) << symbols.error().to_string();
  ASSERT_EQ(symbols->table.source(), SymbolSource::kSystemMap) << symbols->passed_over.at(0);
  EXPECT_FALSE(symbols->table.find("__crc_schedule"));
  EXPECT_EQ(symbols->table.addresses("same").size(), 2u);

  std::string other = good_map();
  other.replace(other.find("ffffffff81000960"), 16, "ffffffff81000961");
  write(std::string("System.map-") + kRelease, other);
  symbols = find();
  ASSERT_TRUE(symbols);
  EXPECT_EQ(symbols->table.source(), SymbolSource::kKallsyms);
  ASSERT_EQ(symbols->passed_over.size(), 1u);
  EXPECT_NE(symbols->passed_over[0].find("belongs to another build: it has 'symbol_300'"), std::string::npos);

  const auto named = find({.vmlinux = "", .system_map = path});
  ASSERT_FALSE(named);
  EXPECT_EQ(named.error().code(), ErrorCode::kUsage);
}

TEST_F(SymbolSources, AMarkerInAnotherPlaceIsAnotherBuild) {
  std::string text = good_map();
  text.replace(0, 16, "ffffffff81000000");  // _text, not where .text is
  write(std::string("System.map-") + kRelease, text);
  const auto symbols = find();
  ASSERT_TRUE(symbols);
  ASSERT_EQ(symbols->passed_over.size(), 1u);
  EXPECT_NE(symbols->passed_over[0].find("'_text' at 0xffffffff81000000"), std::string::npos)
      << symbols->passed_over[0];
}

TEST_F(SymbolSources, WithoutKallsymsThereMustBeMarkersToCompare) {
  options_.rodata = {};
  write(std::string("System.map-") + kRelease, good_map());
  const auto symbols = find();
  ASSERT_FALSE(symbols);
  EXPECT_EQ(symbols.error().code(), ErrorCode::kKernelLacks);
  EXPECT_NE(symbols.error().message().find("at least 3 are needed"), std::string::npos);
  EXPECT_NE(symbols.error().message().find("no kallsyms tables"), std::string::npos);
  EXPECT_NE(symbols.error().message().find("give its vmlinux or System.map"), std::string::npos);
}

TEST_F(SymbolSources, AVmlinuxAsTheKernelUsesItsOwnTable) {
  const std::string path = write("vmlinux", make_elf(vmlinux()));
  auto image = KernelImage::open(path, ImageCache(scratch_.path("images")));
  ASSERT_TRUE(image) << image.error().to_string();
  const auto symbols = find_symbols(*image);
  ASSERT_TRUE(symbols) << symbols.error().to_string();
  EXPECT_EQ(symbols->table.source(), SymbolSource::kVmlinux);
  EXPECT_EQ(symbols->table.origin(), "the symbol table of '" + path + "'");
}

TEST_F(SymbolSources, NamedFilesMustBeThere) {
  const auto symbols = find({.vmlinux = scratch_.path("nothing"), .system_map = ""});
  ASSERT_FALSE(symbols);
  EXPECT_EQ(symbols.error().code(), ErrorCode::kUsage);
}

TEST(ElfSymbols, AliasesAreOrderedAsTheKernelDoes) {
  const std::string elf = make_elf({.symbols = {{"__weak_one", kTextAddress, true},
                                                {"weak_one", kTextAddress, true},
                                                {"__x64_call", kTextAddress, false},
                                                {"call", kTextAddress, false},
                                                {".Lhidden", kTextAddress, false},
                                                {"early", kTextAddress - 0x10, false}}});
  const auto table = read_elf_symbols(ElfView::parse(bytes_of(elf), "'k'").value(), "'k'");
  ASSERT_TRUE(table) << table.error().to_string();
  ASSERT_EQ(table->size(), 5u);
  EXPECT_EQ(table->name(0), "early");
  EXPECT_EQ(table->nearest(kTextAddress + 4)->name, "call");
  EXPECT_EQ(table->name(4), "__weak_one");
}

TEST(SystemMap, RefusesWhatIsNone) {
  const auto refused = [](std::string_view text, std::string_view reason) {
    const auto table = read_system_map(text, kExtent, "'m'");
    ASSERT_FALSE(table) << text;
    EXPECT_EQ(table.error().code(), ErrorCode::kUsage);
    EXPECT_NE(table.error().message().find(reason), std::string::npos) << table.error().to_string();
  };
  refused("ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n",
          "'m' is a stub without symbols");
  refused("", "cut off after 0 lines");
  refused("ffffffff81000000 T _text\nffffffff81000010 T a\n", "cut off after 2 lines");
  refused("ffffffff81000000 T _text\nffffffff81000010 T _end", "a newline at the end");
  refused("ffffffff81000000 T _text\nffffffff810000", "line 2 should be address, type and name");
  refused("ffffffff81000000 T _text\nffffffff81000000 t x [module]\n", "line 2");
  refused("hello\n", "line 1");
  refused("fffffffff81000000 T _text\n", "line 1");
  const auto good = read_system_map("ffffffff81000010 T _end\nffffffff81000000 T _text\n", kExtent, "'m'");
  ASSERT_TRUE(good) << good.error().to_string();
  EXPECT_EQ(good->name(0), "_text");
}

}  // namespace
}  // namespace ktstr::test
