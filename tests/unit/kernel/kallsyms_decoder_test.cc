#include "host/kernel/kallsyms_decoder.h"

#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/kernel/test_image.h"
#include "tests/unit/kernel/test_kallsyms.h"

namespace ktstr::test {
namespace {

class Kallsyms : public testing::TestWithParam<KallsymsFormat> {
 protected:
  // A kernel whose tables were changed by `spoil`.
  static std::string spoiled_elf(const std::function<void(std::string&, const KallsymsLayout&)>& spoil) {
    ElfOptions options;
    options.rodata = [&](std::uint64_t address) {
      KallsymsLayout layout;
      std::string tables = make_kallsyms(many_symbols(GetParam()), GetParam(), address, &layout);
      spoil(tables, layout);
      return tables;
    };
    return make_elf(options);
  }

  static Expected<SymbolTable> decode(const std::string& elf) {
    auto view = ElfView::parse(bytes_of(elf), "'k'");
    if (!view) return std::unexpected(std::move(view.error()));
    return decode_kallsyms(*view, "'k'");
  }

  static void expect_refused(const std::function<void(std::string&, const KallsymsLayout&)>& spoil,
                             std::string_view reason) {
    const auto table = decode(spoiled_elf(spoil));
    ASSERT_FALSE(table) << reason;
    EXPECT_EQ(table.error().code(), ErrorCode::kKernelLacks);
    EXPECT_NE(table.error().message().find(reason), std::string::npos) << table.error().to_string();
  }
};

TEST_P(Kallsyms, GivesEverySymbol) {
  const auto table = decode(make_elf_with_kallsyms(GetParam()));
  ASSERT_TRUE(table) << table.error().to_string();
  const auto symbols = many_symbols(GetParam());
  ASSERT_EQ(table->size(), symbols.size());
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    EXPECT_EQ(table->name(i), symbols[i].name);
    EXPECT_EQ(table->address_at(i), symbols[i].address) << symbols[i].name;
  }
  EXPECT_EQ(table->source(), SymbolSource::kKallsyms);
  EXPECT_EQ(table->origin(), "the kallsyms embedded in 'k'");
  EXPECT_EQ(table->addresses("same").size(), 2u);
  EXPECT_EQ(table->nearest(*table->find("alias_b") + 1)->name, "alias_a");
}

TEST_P(Kallsyms, SaysTheFormat) {
  const std::string elf = make_elf_with_kallsyms(GetParam());
  const auto tables = find_kallsyms(ElfView::parse(bytes_of(elf), "'k'").value(), "'k'");
  ASSERT_TRUE(tables);
  EXPECT_EQ(tables->format, GetParam());
}

TEST_P(Kallsyms, AreFoundWithoutSectionHeaders) {
  EXPECT_TRUE(decode(make_elf_with_kallsyms(GetParam(), {.sections = false})));
}

TEST_P(Kallsyms, AreFoundBehindOtherDigits) {
  std::string decoy;
  for (char digit = '0'; digit <= '9'; ++digit) decoy += std::string(1, digit) + '\0';
  const auto format = GetParam();
  ElfOptions options;
  options.rodata = [&](std::uint64_t address) {
    std::string before = decoy + decoy + std::string(300, 'x') + decoy;
    before.resize((before.size() + 7) / 8 * 8);
    return before + make_kallsyms(many_symbols(format), format, address + before.size());
  };
  EXPECT_TRUE(decode(make_elf(options)));
}

TEST_P(Kallsyms, DamageIsNamed) {
  constexpr const char* kNone = "it has no kallsyms tables";
  constexpr const char* kBadNames = "no list of names agrees with the markers";
  constexpr const char* kBadOffsets = "no way to read the offsets";
  expect_refused([](std::string& t, const auto& l) { t[l.token_table + 2] = '\0'; }, kNone);
  expect_refused([](std::string& t, const auto& l) { t[l.token_table + 2] = '\n'; }, kNone);
  expect_refused([](std::string& t, const auto& l) { poke<std::uint16_t>(t, l.token_index + 400, 3); },
                 kNone);
  expect_refused([](std::string& t, const auto& l) { t.resize(l.token_index + 511); }, kNone);
  expect_refused([](std::string& t, const auto& l) { poke<std::uint32_t>(t, l.markers + 4, 0x7fffffff); },
                 "the markers in front of the tokens make no sense");
  expect_refused([](std::string& t, const auto& l) { poke<std::uint32_t>(t, l.markers + 4, 1500); },
                 kBadNames);
  expect_refused([](std::string& t, const auto& l) { poke<std::uint32_t>(t, l.num_syms, 599); }, kBadNames);
  expect_refused([](std::string& t, const auto& l) { poke<std::uint32_t>(t, l.num_syms, UINT32_MAX); },
                 kBadNames);
  expect_refused([](std::string& t, const auto& l) { t[l.names] = '\0'; }, kBadNames);
  expect_refused([](std::string& t, const auto& l) { poke<std::uint32_t>(t, l.offsets + 800, 0x40000000); },
                 kBadOffsets);
  expect_refused([](std::string& t, const auto& l) { t.resize(l.offsets + 2000); }, kBadOffsets);
}

TEST_P(Kallsyms, AnyByteMayBeWrong) {
  const std::string elf = make_elf_with_kallsyms(GetParam());
  for (std::size_t at = 64; at < elf.size(); at += 5) {
    for (const char value : {'\0', '\xff'}) {
      std::string spoiled = elf;
      spoiled[at] = value;
      const auto table = decode(spoiled);
      if (table) {
        EXPECT_GE(table->size(), 600u);
      }
    }
  }
}

TEST_P(Kallsyms, NamesTooLongAreRefused) {
  auto symbols = many_symbols(GetParam());
  symbols[100].name = std::string(SymbolTable::kMaxName, 'q');
  ElfOptions options;
  options.rodata = [&](std::uint64_t address) { return make_kallsyms(symbols, GetParam(), address); };
  EXPECT_TRUE(decode(make_elf(options)));
  // Short when compressed.
  symbols[100].name = "a_piece_longer_than_sixteen_characters";
  while (symbols[100].name.size() <= SymbolTable::kMaxName) symbols[100].name += symbols[100].name;
  const auto table = decode(make_elf(options));
  ASSERT_FALSE(table);
  EXPECT_NE(table.error().message().find("symbol 100 of"), std::string::npos) << table.error().to_string();
}

// Sections that the build uses for itself and does not ship lie behind all that is loaded.
TEST_P(Kallsyms, MayNameWhatLiesBehindTheImage) {
  auto symbols = many_symbols(GetParam());
  ElfOptions options;
  options.rodata = [&](std::uint64_t address) { return make_kallsyms(symbols, GetParam(), address); };
  for (const std::uint64_t behind : {0x0u, 0x18000u, 0x2000000u}) {
    symbols.back().address = 0;
    const AddressRange extent = kernel_extent(ElfView::parse(bytes_of(make_elf(options)), "'k'").value());
    symbols.back().address = extent.end + behind;
    const auto table = decode(make_elf(options));
    ASSERT_TRUE(table) << behind << ": " << table.error().to_string();
    EXPECT_EQ(table->find("_end"), extent.end + behind);
    EXPECT_EQ(table->size(), symbols.size());
    EXPECT_FALSE(table->nearest(extent.end + behind)) << "it is no place of the kernel's";
  }
  // Too far away: the offsets are taken for nonsense.
  symbols.back().address = kTextAddress + 0x6000000;
  EXPECT_FALSE(decode(make_elf(options)));
}

INSTANTIATE_TEST_SUITE_P(Formats, Kallsyms,
                         testing::Values(KallsymsFormat::kAbsolutePercpu, KallsymsFormat::kRelativeBase,
                                         KallsymsFormat::kPcRelative),
                         [](const auto& instance) {
                           std::string name(kallsyms_format_name(instance.param));
                           std::erase_if(name, [](char c) { return c == ' ' || c == ',' || c == '-'; });
                           return name;
                         });

TEST(KallsymsDecoder, AKernelWithoutThemSaysSo) {
  const std::string elf = make_elf();
  const auto table = decode_kallsyms(ElfView::parse(bytes_of(elf), "'k'").value(), "'k'");
  ASSERT_FALSE(table);
  EXPECT_EQ(table.error().code(), ErrorCode::kKernelLacks);
  EXPECT_EQ(table.error().message(), "'k': it has no kallsyms tables (is CONFIG_KALLSYMS off?)");
}

}  // namespace
}  // namespace ktstr::test
