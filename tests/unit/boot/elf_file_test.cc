// Damaged ELF files: whatever is wrong, the answer is an error or a result, never a crash or a long wait.
#include "host/boot/elf_file.h"

#include <elf.h>

#include <cstring>
#include <span>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/unit/boot/boot_fixture.h"

namespace ktstr::test {
namespace {

using ::testing::HasSubstr;

class ElfFileTest : public BootTest {
 protected:
  void SetUp() override {
    make_library("libleaf.so.1", "-Wl,-soname,libleaf.so.1");
    good_ = read_all(make_library("libx.so.1", "-Wl,-soname,libx.so.1 -Wl,-rpath,/some/where libleaf.so.1"));
  }

  static Expected<ElfDynamic> read(const std::string& bytes) {
    auto elf = ElfFile::from_bytes(std::as_bytes(std::span(bytes)), "x");
    if (!elf) return std::unexpected(elf.error());
    return elf->read_dynamic();
  }
  template <typename T>
  static T get(const std::string& bytes, std::size_t at) {
    T value = {};
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  }
  template <typename T>
  static void set(std::string& bytes, std::size_t at, const T& value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }
  // File offset of the first program header of this type.
  std::size_t program_header(std::uint32_t type) const {
    const auto header = get<Elf64_Ehdr>(good_, 0);
    for (std::size_t i = 0; i < header.e_phnum; ++i) {
      const std::size_t at = header.e_phoff + i * sizeof(Elf64_Phdr);
      if (get<Elf64_Phdr>(good_, at).p_type == type) return at;
    }
    ADD_FAILURE() << "no program header " << type;
    return 0;
  }
  // File offset of the dynamic entry with this tag.
  std::size_t dynamic_entry(std::int64_t tag) const {
    const auto segment = get<Elf64_Phdr>(good_, program_header(PT_DYNAMIC));
    for (std::size_t at = segment.p_offset; at < segment.p_offset + segment.p_filesz;
         at += sizeof(Elf64_Dyn)) {
      if (get<Elf64_Dyn>(good_, at).d_tag == tag) return at;
    }
    ADD_FAILURE() << "no dynamic entry " << tag;
    return 0;
  }

  std::string good_;
};

TEST_F(ElfFileTest, ReadsTheDynamicSection) {
  const auto dynamic = read(good_);
  ASSERT_TRUE(dynamic) << dynamic.error().to_string();
  ASSERT_EQ(dynamic->needed.size(), 1U);
  EXPECT_EQ(dynamic->needed[0].name, "libleaf.so.1");
  EXPECT_EQ(dynamic->soname, "libx.so.1");
  EXPECT_EQ(dynamic->runpath, "/some/where");
  EXPECT_EQ(dynamic->rpath, std::nullopt);
}

TEST_F(ElfFileTest, ReadsFromAFileAsFromMemory) {
  auto elf = ElfFile::open(path("libx.so.1"));
  ASSERT_TRUE(elf);
  const auto dynamic = elf->read_dynamic();
  ASSERT_TRUE(dynamic) << dynamic.error().to_string();
  EXPECT_EQ(dynamic->soname, "libx.so.1");
}

TEST_F(ElfFileTest, SurvivesEveryTruncation) {
  const std::size_t step = good_.size() > 4096 ? 7 : 1;
  for (std::size_t size = 0; size < good_.size(); size += size < 1024 ? 1 : step) {
    const auto dynamic = read(good_.substr(0, size));
    if (size < sizeof(Elf64_Ehdr)) {
      EXPECT_FALSE(dynamic) << size;
    }
    if (!dynamic) {
      EXPECT_EQ(dynamic.error().code(), ErrorCode::kStartFailed);
    }
  }
}

TEST_F(ElfFileTest, TruncatedFileOnDiskIsAnError) {
  const auto segment = get<Elf64_Phdr>(good_, program_header(PT_DYNAMIC));
  auto elf = ElfFile::open(write("short", good_.substr(0, segment.p_offset + 8)));
  ASSERT_TRUE(elf);
  const auto dynamic = elf->read_dynamic();
  ASSERT_FALSE(dynamic);
  EXPECT_THAT(dynamic.error().message(), HasSubstr("outside the file"));
}

TEST_F(ElfFileTest, SurvivesEveryDamagedByteOfTheHeaders) {
  const auto segment = get<Elf64_Phdr>(good_, program_header(PT_DYNAMIC));
  const auto try_range = [&](std::size_t from, std::size_t to) {
    for (std::size_t at = from; at < to; ++at) {
      for (const char value : {'\0', '\x7f', '\xff'}) {
        std::string bytes = good_;
        bytes[at] = value;
        const auto dynamic = read(bytes);
        if (!dynamic) {
          EXPECT_EQ(dynamic.error().code(), ErrorCode::kStartFailed);
        }
      }
    }
  };
  try_range(0, sizeof(Elf64_Ehdr) + 12 * sizeof(Elf64_Phdr));
  try_range(segment.p_offset, segment.p_offset + segment.p_filesz);
}

TEST_F(ElfFileTest, StringTableOutsideTheFile) {
  for (const std::uint64_t address : {std::uint64_t{0xffff'ffff'ffff'fff0}, std::uint64_t{1} << 40}) {
    std::string bytes = good_;
    set(bytes, dynamic_entry(DT_STRTAB) + 8, address);
    const auto dynamic = read(bytes);
    ASSERT_FALSE(dynamic);
    EXPECT_THAT(dynamic.error().message(), HasSubstr("points outside the string table"));
  }
}

TEST_F(ElfFileTest, NeededNameOutsideTheStringTable) {
  std::string bytes = good_;
  set(bytes, dynamic_entry(DT_NEEDED) + 8, ~std::uint64_t{0});
  const auto dynamic = read(bytes);
  ASSERT_FALSE(dynamic);
  EXPECT_EQ(dynamic.error().message(),
            "'x' is a damaged ELF file: DT_NEEDED points outside the string table");
}

TEST_F(ElfFileTest, UnterminatedString) {
  std::string bytes = good_;
  // The table ends right after the first byte of the name.
  set(bytes, dynamic_entry(DT_STRSZ) + 8, get<Elf64_Dyn>(good_, dynamic_entry(DT_NEEDED)).d_un.d_val + 1);
  const auto dynamic = read(bytes);
  ASSERT_FALSE(dynamic);
  EXPECT_THAT(dynamic.error().message(), HasSubstr("has no end within 1 bytes"));
}

TEST_F(ElfFileTest, HugeCounts) {
  std::string headers = good_;
  set(headers, offsetof(Elf64_Ehdr, e_phnum), std::uint16_t{0xfffe});
  EXPECT_FALSE(read(headers));
  std::string entries = good_;
  set(entries, program_header(PT_DYNAMIC) + offsetof(Elf64_Phdr, p_filesz), std::uint64_t{1} << 60);
  const auto dynamic = read(entries);
  ASSERT_FALSE(dynamic);
  EXPECT_THAT(dynamic.error().message(), HasSubstr("believable"));
}

TEST_F(ElfFileTest, SegmentOffsetsThatWrapAround) {
  std::string bytes = good_;
  set(bytes, program_header(PT_DYNAMIC) + offsetof(Elf64_Phdr, p_offset), ~std::uint64_t{0} - 8);
  EXPECT_FALSE(read(bytes));
  for (std::size_t field : {offsetof(Elf64_Phdr, p_offset), offsetof(Elf64_Phdr, p_vaddr)}) {
    bytes = good_;
    set(bytes, program_header(PT_LOAD) + field, ~std::uint64_t{0} - 8);
    EXPECT_FALSE(read(bytes));
  }
}

}  // namespace
}  // namespace ktstr::test
