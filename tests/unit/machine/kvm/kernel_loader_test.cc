#include "host/machine/kvm/kernel_loader.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <functional>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/temp_file.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kRam = 64 * kMiB;
constexpr std::uint64_t kPlace = 16 * kMiB;

// A kernel of two segments of which the second has more memory than bytes.
struct TestElf {
  Elf64_Ehdr header = {};
  std::array<Elf64_Phdr, 2> segments = {};
  std::vector<std::uint8_t> code = pattern(2 * kPage);

  TestElf() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    header.e_phoff = sizeof(header);
    header.e_entry = kPlace + 16;
    segments[0] = {.p_type = PT_LOAD,
                   .p_flags = PF_R | PF_X,
                   .p_offset = kPage,
                   .p_vaddr = 0xffffffff81000000,
                   .p_paddr = kPlace,
                   .p_filesz = kPage,
                   .p_memsz = kPage,
                   .p_align = kPage};
    segments[1] = segments[0];
    segments[1].p_offset = 2 * kPage;
    segments[1].p_paddr = kPlace + kPage;
    segments[1].p_filesz = 100;
    segments[1].p_memsz = 3 * kPage;
  }
  UniqueFd file() const {
    std::vector<std::uint8_t> bytes(kPage);
    put_value(bytes, 0, header);
    put_value(bytes, sizeof(header), segments);
    bytes.insert(bytes.end(), code.begin(), code.end());
    return file_of(bytes);
  }
};

struct TestBzImage {
  setup_header header = {};
  std::vector<std::uint8_t> code = pattern(3 * kPage + 5);

  TestBzImage() {
    header.setup_sects = 7;
    header.boot_flag = 0xaa55;
    header.header = 0x53726448;
    header.version = 0x20f;
    header.xloadflags = XLF_KERNEL_64;
    header.pref_address = kPlace;
    header.init_size = 8 << 20;
    header.cmdline_size = 2047;
    header.initrd_addr_max = 0x7fffffff;
  }
  UniqueFd file() const {
    std::vector<std::uint8_t> bytes;
    bytes.resize(8 * 512);
    put_value(bytes, 0x1f1, header);
    bytes.insert(bytes.end(), code.begin(), code.end());
    return file_of(bytes);
  }
};

class KernelLoader : public testing::Test {
 protected:
  Expected<LoadedKernel> load(const TestElf& elf) { return load_kernel(ram_, elf.file().get(), true); }
  Expected<LoadedKernel> load(const TestBzImage& image) {
    return load_kernel(ram_, image.file().get(), false);
  }
  void expect_refused(const std::function<void(TestElf&)>& change, std::string_view why) {
    TestElf elf;
    change(elf);
    expect_error(load(elf), why);
  }
  void expect_refused(const std::function<void(TestBzImage&)>& change, std::string_view why) {
    TestBzImage image;
    change(image);
    expect_error(load(image), why);
  }
  static void expect_error(const Expected<LoadedKernel>& loaded, std::string_view why) {
    ASSERT_FALSE(loaded) << why;
    EXPECT_EQ(loaded.error().code(), ErrorCode::kUsage) << loaded.error().to_string();
    EXPECT_NE(loaded.error().to_string().find(why), std::string::npos) << loaded.error().to_string();
    EXPECT_NE(loaded.error().to_string().find("loading the kernel"), std::string::npos)
        << loaded.error().to_string();
  }

  GuestRam ram_ = GuestRam::create(std::array{kRam}, RamPages::kNormal).value();
};

TEST_F(KernelLoader, SegmentsAreWhereTheySay) {
  const TestElf elf;
  const auto kernel = load(elf);
  ASSERT_TRUE(kernel) << kernel.error().to_string();
  EXPECT_EQ(kernel->entry, kPlace + 16);
  EXPECT_EQ(kernel->start, kPlace);
  EXPECT_EQ(kernel->end, kPlace + 4 * kPage);
  EXPECT_EQ(ram_.mapped_bytes(), kPage);
  const auto bytes = std::as_bytes(std::span(elf.code));
  EXPECT_TRUE(std::ranges::equal(ram_.bytes(kPlace, kPage + 100), bytes.first(kPage + 100)));
  // What a segment has beyond its bytes is zero, on the same page and on the next ones.
  EXPECT_TRUE(std::ranges::all_of(ram_.bytes(kPlace + kPage + 100, 3 * kPage - 100),
                                  [](std::byte byte) { return byte == std::byte{0}; }));
  EXPECT_EQ(kernel->header.cmdline_size, 2047U);
  EXPECT_EQ(kernel->header.type_of_loader, 0xff);
  EXPECT_NE(kernel->header.loadflags & LOADED_HIGH, 0);
}

TEST_F(KernelLoader, HostileElfHeaders) {
  using E = TestElf&;
  const std::string_view kNoElf = "no x86-64 ELF that can be loaded";
  const std::string_view kNoRam = "where the guest has no RAM";
  const std::string_view kShort = "shorter than its headers say";
  expect_refused([](E elf) { elf.header.e_ident[0] = 0; }, kNoElf);
  expect_refused([](E elf) { elf.header.e_ident[EI_CLASS] = ELFCLASS32; }, kNoElf);
  expect_refused([](E elf) { elf.header.e_machine = EM_386; }, kNoElf);
  expect_refused([](E elf) { elf.header.e_phentsize = 1; }, kNoElf);
  expect_refused([](E elf) { elf.header.e_phnum = 0; }, kNoElf);
  expect_refused([](E elf) { elf.header.e_phnum = 0xffff; }, kNoElf);
  expect_refused([](E elf) { elf.header.e_phoff = 1 << 20; }, kShort);
  expect_refused([](E elf) { elf.header.e_phoff = ~std::uint64_t{0}; }, "beyond any file");
  expect_refused([](E elf) { elf.header.e_entry = kPlace - 1; }, "in none of its segments");
  expect_refused([](E elf) { elf.header.e_entry = kPlace + 4 * kPage; }, "in none of its segments");
  expect_refused([](E elf) { elf.segments[0].p_type = elf.segments[1].p_type = PT_NOTE; },
                 "in none of its segments");
  // Not over the page tables, the command line, or ACPI tables.
  expect_refused([](E elf) { elf.segments[0].p_paddr = kPageTablesGpa; }, kNoRam);
  expect_refused([](E elf) { elf.segments[0].p_paddr = kHighMemoryGpa - kPage; }, kNoRam);
  expect_refused([](E elf) { elf.segments[0].p_paddr = kRam - kPage + 1; }, kNoRam);
  expect_refused([](E elf) { elf.segments[0].p_paddr = ~std::uint64_t{0} - 10; }, kNoRam);
  expect_refused([](E elf) { elf.segments[1].p_memsz = kRam; }, kNoRam);
  expect_refused([](E elf) { elf.segments[1].p_memsz = ~std::uint64_t{0}; }, kNoRam);
  expect_refused([](E elf) { elf.segments[1].p_memsz = 99; }, kNoRam);
  expect_refused([](E elf) { elf.segments[1].p_filesz = 2 * kPage; }, kShort);
  expect_refused([](E elf) { elf.segments[1].p_offset = 1 << 30; }, kShort);
  expect_refused([](E elf) { elf.segments[1].p_offset = ~std::uint64_t{0} - 50; }, kShort);
}

TEST_F(KernelLoader, EmptyAndShortFiles) {
  const UniqueFd empty = file_of({});
  EXPECT_EQ(load_kernel(ram_, empty.get(), true).error().code(), ErrorCode::kUsage);
  EXPECT_EQ(load_kernel(ram_, empty.get(), false).error().code(), ErrorCode::kUsage);
  const UniqueFd some = file_of(pattern(600));
  EXPECT_EQ(load_kernel(ram_, some.get(), true).error().code(), ErrorCode::kUsage);
  EXPECT_EQ(load_kernel(ram_, some.get(), false).error().code(), ErrorCode::kUsage);
}

TEST_F(KernelLoader, BzImage) {
  const TestBzImage image;
  const auto kernel = load(image);
  ASSERT_TRUE(kernel) << kernel.error().to_string();
  EXPECT_EQ(kernel->start, kHighMemoryGpa);
  EXPECT_EQ(kernel->entry, kHighMemoryGpa + 0x200);
  EXPECT_EQ(kernel->end, kPlace + (8 << 20));
  EXPECT_TRUE(std::ranges::equal(ram_.bytes(kHighMemoryGpa, image.code.size()),
                                 std::as_bytes(std::span(image.code))));
  EXPECT_EQ(kernel->header.init_size, 8U << 20);
}

TEST_F(KernelLoader, NoSetupSectorsMeansFour) {
  TestBzImage image;
  image.header.setup_sects = 0;
  const auto kernel = load(image);
  ASSERT_TRUE(kernel);
  // Three sectors of the setup code are then taken for the kernel's.
  EXPECT_TRUE(std::ranges::equal(ram_.bytes(kHighMemoryGpa + 3 * 512, image.code.size()),
                                 std::as_bytes(std::span(image.code))));
}

TEST_F(KernelLoader, HostileBzImageHeaders) {
  using B = TestBzImage&;
  expect_refused([](B image) { image.header.header = 0; }, "no bzImage");
  expect_refused([](B image) { image.header.boot_flag = 0; }, "no bzImage");
  expect_refused([](B image) { image.header.version = 0x20b; }, "no 64-bit entry");
  expect_refused([](B image) { image.header.xloadflags = 0; }, "no 64-bit entry");
  expect_refused([](B image) { image.header.setup_sects = 255; }, "truncated");
  expect_refused([](B image) { image.code.clear(); }, "truncated");
  expect_refused([](B image) { image.code.resize(0x200); }, "truncated");  // nothing at the entry
  expect_refused([](B image) { image.header.init_size = 0xffffffff; }, "needs 4");
  expect_refused([](B image) { image.header.init_size = 49 << 20; }, "give the guest more");
  expect_refused([](B image) { image.header.pref_address = ~std::uint64_t{0}; }, "where there is no RAM");
  expect_refused([](B image) { image.header.pref_address = 0xf0000000; }, "where there is no RAM");
}

}  // namespace
}  // namespace ktstr::kvm::tiny
