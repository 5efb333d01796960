#include "host/kernel/elf_view.h"

#include <gtest/gtest.h>

#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {
namespace {

TEST(ElfView, FindsSectionsAndNotes) {
  const std::string elf = make_elf();
  auto view = ElfView::parse(bytes_of(elf), "'k'");
  ASSERT_TRUE(view) << view.error().to_string();
  EXPECT_EQ(view->entry(), 0x1000000u);
  EXPECT_EQ(view->type(), ET_EXEC);
  EXPECT_EQ(view->segments().size(), 2u);
  ASSERT_NE(view->section(".rodata"), nullptr);
  EXPECT_EQ(view->section(".rodata")->address - 0xffffffff81000000, view->section(".rodata")->offset);
  EXPECT_EQ(view->section(".data"), nullptr);
  const auto note = view->note("GNU", NT_GNU_BUILD_ID);
  ASSERT_TRUE(note);
  EXPECT_EQ(note->bytes.size(), 10u);
  EXPECT_FALSE(view->note("GNU", 77));
  EXPECT_FALSE(view->note("GN", NT_GNU_BUILD_ID));
  EXPECT_TRUE(view->note("Xen", 18));
}

TEST(ElfView, FindsNotesBySegmentWithoutSections) {
  const std::string elf = make_elf({.sections = false});
  auto view = ElfView::parse(bytes_of(elf), "'k'");
  ASSERT_TRUE(view);
  EXPECT_TRUE(view->sections().empty());
  EXPECT_TRUE(view->note("GNU", NT_GNU_BUILD_ID));
}

TEST(ElfView, RefusesEveryTruncation) {
  const std::string elf = make_elf({.btf = make_btf()});
  for (std::size_t size = 0; size < elf.size(); ++size) {
    const std::string cut = elf.substr(0, size);
    auto view = ElfView::parse(bytes_of(cut), "'k'");
    ASSERT_FALSE(view) << "of " << elf.size() << " bytes " << size << " were enough";
    EXPECT_EQ(view.error().code(), ErrorCode::kUsage);
  }
}

TEST(ElfView, SurvivesEveryByteSetToExtremes) {
  const std::string elf = make_elf({.btf = make_btf()});
  for (std::size_t at = 0; at < elf.size(); ++at) {
    for (const char value : {'\0', '\x7f', '\xff'}) {
      std::string spoiled = elf;
      spoiled[at] = value;
      if (auto view = ElfView::parse(bytes_of(spoiled), "'k'")) {
        view->note("GNU", NT_GNU_BUILD_ID);
        view->note("none", 1);
      }
    }
  }
}

TEST(ElfView, NamesForeignArchitectures) {
  std::string elf = make_elf();
  poke<std::uint16_t>(elf, offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
  auto view = ElfView::parse(bytes_of(elf), "'k'");
  ASSERT_FALSE(view);
  EXPECT_EQ(view.error().code(), ErrorCode::kUsage);
  EXPECT_NE(view.error().to_string().find("is for aarch64"), std::string::npos) << view.error().to_string();

  poke<std::uint16_t>(elf, offsetof(Elf64_Ehdr, e_machine), EM_386);
  elf[EI_CLASS] = ELFCLASS32;
  EXPECT_NE(ElfView::parse(bytes_of(elf), "'k'").error().to_string().find("32-bit x86"), std::string::npos);

  // Big-endian: the machine number is stored the other way round.
  elf[EI_CLASS] = ELFCLASS64;
  elf[EI_DATA] = ELFDATA2MSB;
  poke<std::uint16_t>(elf, offsetof(Elf64_Ehdr, e_machine), EM_S390 << 8);
  EXPECT_NE(ElfView::parse(bytes_of(elf), "'k'").error().to_string().find("s390"), std::string::npos);

  poke<std::uint16_t>(elf, offsetof(Elf64_Ehdr, e_machine), 0x3412);
  EXPECT_NE(ElfView::parse(bytes_of(elf), "'k'").error().to_string().find("ELF machine 4660"),
            std::string::npos);
}

}  // namespace
}  // namespace ktstr::test
