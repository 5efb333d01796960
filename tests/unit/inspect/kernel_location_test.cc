#include "host/kernel/kernel_location.h"

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "host/memory/mock_memory.h"
#include "host/memory/page_table_builder.h"

namespace ktstr {
namespace {

using Page = PageTableBuilder::Page;
using ::testing::Test;

constexpr std::uint64_t kText = 0xffffffff81000000;
constexpr std::uint64_t kData = 0xffffffff81200000;  // the second 2 MiB of the image
constexpr std::uint64_t kIdt = 0xfffffe0000000000;
constexpr std::string_view kBanner = "Linux version 7.2.13 (builder)\n";

// Link-time addresses.
const std::map<std::string_view, std::uint64_t> kSymbols = {
    {"_text", kText},
    {"entry_SYSCALL_64", kText + 0x800},
    {"asm_exc_divide_error", kText + 0xa00},
    {"asm_exc_page_fault", kText + 0xb40},
    {"linux_banner", kData},
    {"page_offset_base", kData + 0x100},
    {"phys_base", kData + 0x108},
    {"init_top_pgt", kData + 0x2000},
    {"_end", kData + 0x180000},
};

// A guest made by hand: image, tables and IDT.
class KernelLocationTest : public Test {
 protected:
  struct Guest {
    std::uint64_t slide = 0x1a000000;
    std::uint64_t image = 0x2000000;  // where _text lies in physical memory
    PagingLevels levels = PagingLevels::kFour;
    std::uint64_t page_offset = 0xffff9a8000000000;
  };

  void boot(const Guest& guest) {
    guest_ = guest;
    base_ = static_cast<std::int64_t>(guest.image - (kText + guest.slide - kStartKernelMap.value()));
    memory_.add_ram(Gpa(0x100000), 0x100000);       // IDT, the lower tables
    memory_.add_ram(Gpa(guest.image), 4ull << 20);  // image; init_top_pgt and more tables
    builder_.emplace(memory_, place("init_top_pgt"), guest.levels);
    map_all(*builder_);
    write("linux_banner", kBanner);
    memory_.write_value(place("page_offset_base"), guest.page_offset);
    memory_.write_value(place("phys_base"), base_);
    write_gates(kSymbols.at("asm_exc_divide_error") + guest.slide,
                kSymbols.at("asm_exc_page_fault") + guest.slide);
    vcpus_ = {{.cr3 = builder_->root().value(),
               .cr4 = guest.levels == PagingLevels::kFive ? 0x1000ull : 0ull,
               .idt_base = kIdt,
               .idt_limit = 0xfff,
               .lstar = {}}};
  }

  void map_all(PageTableBuilder& tables) {
    for (std::uint64_t at = 0; at < 4ull << 20; at += 2ull << 20)
      tables.map(Kva(kText + guest_.slide + at), Gpa(guest_.image + at), Page::k2MiB);
    for (std::uint64_t at = 0; at < 4ull << 30; at += 1ull << 30)
      tables.map(Kva(guest_.page_offset + at), Gpa(at), Page::k1GiB);
    tables.map(Kva(kIdt), Gpa(0x100000));
  }

  Gpa place(std::string_view symbol) const { return Gpa(kSymbols.at(symbol) - kText + guest_.image); }
  void write(std::string_view symbol, std::string_view text) { memory_.write_text(place(symbol), text); }
  void write_gate(std::uint64_t vector, std::uint64_t handler) {
    memory_.write_value(Gpa(0x100000 + vector * 16),
                        (handler & 0xffff) | 0x10ull << 16 | 0x8eull << 40 | (handler >> 16 & 0xffff) << 48);
    memory_.write_value(Gpa(0x100008 + vector * 16), handler >> 32);
  }
  void write_gates(std::uint64_t divide_error, std::uint64_t page_fault) {
    write_gate(0, divide_error);
    write_gate(14, page_fault);
  }

  static SymbolTable symbols(std::string_view without = "") {
    std::multimap<std::uint64_t, std::string_view> by_address;
    for (const auto& [name, address] : kSymbols) by_address.emplace(address, name);
    SymbolTable::Builder builder(by_address.size());
    for (const auto& [address, name] : by_address) {
      if (name != without) builder.add(name, address);
    }
    return std::move(builder).finish(SymbolSource::kKallsyms, "test", {kText, kText + (4ull << 20)});
  }

  Expected<KernelLocation> find(const Vmcoreinfo* info = nullptr, std::optional<Kva> text = {},
                                std::vector<ImageBytes> expected = {}) {
    const GuestMemory memory = memory_.memory();
    return find_kernel({.memory = memory,
                        .symbols = symbols_,
                        .vcpus = vcpus_,
                        .vmcoreinfo = info,
                        .text = text,
                        .expected = expected});
  }
  void expect_found(const Expected<KernelLocation>& found) {
    ASSERT_TRUE(found) << found.error().to_string();
    EXPECT_EQ(found->slide, guest_.slide);
    EXPECT_EQ(found->physical_base, base_);
    EXPECT_EQ(found->levels, guest_.levels);
    EXPECT_EQ(found->page_offset_base, Kva(guest_.page_offset));
    EXPECT_EQ(found->init_top_pgt, place("init_top_pgt"));
  }
  void expect_error(const Expected<KernelLocation>& found, ErrorCode code, std::string_view part) {
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code(), code);
    EXPECT_NE(found.error().to_string().find(part), std::string::npos) << found.error().to_string();
  }

  MockMemory memory_;
  Guest guest_;
  std::int64_t base_ = 0;
  std::optional<PageTableBuilder> builder_;
  std::vector<VcpuWitness> vcpus_;
  SymbolTable symbols_ = symbols();
};

TEST_F(KernelLocationTest, KaslrWithNegativePhysicalBase) {
  boot({});
  EXPECT_LT(base_, 0);
  const auto found = find();
  expect_found(found);
  EXPECT_EQ(
      found->evidence,
      "slide 0x1a000000 by the IDT of vCPU 0; phys_base -0x19000000 by the page tables of vCPU 0 and the "
      "variable phys_base; verified by init_top_pgt and the image");
  EXPECT_EQ(found->gpa(found->kva(kText)), Gpa(guest_.image));
}

TEST_F(KernelLocationTest, FiveLevelsAndNoSlide) {
  boot({.slide = 0, .image = 0x30000000, .levels = PagingLevels::kFive, .page_offset = 0xff11000000000000});
  expect_found(find());
  EXPECT_GT(base_, 0);
}

TEST_F(KernelLocationTest, ConstantPageOffset) {
  boot({.slide = 0, .image = 0x1000000, .page_offset = 0xffff888000000000});
  memory_.write_value(place("page_offset_base"), std::uint64_t{0});
  symbols_ = symbols("page_offset_base");
  expect_found(find());
  EXPECT_EQ(base_, 0);
}

TEST_F(KernelLocationTest, LayoutReadsTheKernel) {
  boot({});
  const auto found = find();
  ASSERT_TRUE(found);
  const auto layout = make_layout(*found, symbols_, Gpa(4ull << 30));
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->image->size, kSymbols.at("_end") - kText);
  EXPECT_EQ(layout->direct_map->size, 4ull << 30);
  KernelMemory kernel(memory_.memory(), *layout);
  ReadBudget budget(1 << 16, 1 << 10);
  EXPECT_EQ(kernel.read<std::int64_t>(found->kva(kSymbols.at("phys_base")), budget), base_);
  EXPECT_EQ(kernel.read<std::uint64_t>(Kva(guest_.page_offset + place("page_offset_base").value()), budget),
            guest_.page_offset);
  EXPECT_FALSE(make_layout(*found, symbols("_end"), Gpa(4ull << 30)));
}

// The user half lies in the page after the kernel half and has the IDT and some text, no data.
TEST_F(KernelLocationTest, UserHalfOfPageTableIsolation) {
  boot({});
  PageTableBuilder user(memory_, place("init_top_pgt") + 0x1000 + 0x40000, guest_.levels);
  user.map(Kva(kIdt), Gpa(0x100000));
  user.map(Kva(kText + guest_.slide), Gpa(guest_.image), Page::k2MiB);
  // The top table of that half must be the kernel half's address with bit 12 set, which is where the builder
  // put its second table: move it.
  const Gpa kernel_half(0x180000);
  const Gpa user_half(0x181000);
  for (std::uint64_t at = 0; at < 4096; at += 8) {
    memory_.write_value(kernel_half + at, memory_.value_at<std::uint64_t>(builder_->root() + at));
    memory_.write_value(user_half + at, memory_.value_at<std::uint64_t>(user.root() + at));
  }
  vcpus_[0].cr3 = user_half.value() | 0x803;  // and a PCID
  expect_found(find());
  vcpus_[0].cr3 = kernel_half.value() | 3;
  expect_found(find());
}

// Built without isolation: bit 12 belongs to the address.
TEST_F(KernelLocationTest, RootWithBit12) {
  boot({});
  const Gpa root(0x181000);
  for (std::uint64_t at = 0; at < 4096; at += 8)
    memory_.write_value(root + at, memory_.value_at<std::uint64_t>(builder_->root() + at));
  vcpus_[0].cr3 = root.value();
  expect_found(find());
}

TEST_F(KernelLocationTest, EarlyBoot) {
  boot({});
  vcpus_[0].idt_limit = 0x1ff;
  expect_error(find(), ErrorCode::kNoBoot, "limit 0x1ff");
  vcpus_[0].idt_limit = 0xfff;  // stubs that lie 9 bytes apart
  write_gates(kText + guest_.slide + 0x5000, kText + guest_.slide + 0x5000 + 14 * 9);
  expect_error(find(), ErrorCode::kNoBoot, "handlers");
  write_gates(kSymbols.at("asm_exc_divide_error") + 0x1000, kSymbols.at("asm_exc_page_fault") + 0x1000);
  expect_error(find(), ErrorCode::kNoBoot, "handlers");  // no multiple of 2 MiB
  write_gates(kSymbols.at("asm_exc_divide_error") - (2 << 20), kSymbols.at("asm_exc_page_fault") - (2 << 20));
  expect_error(find(), ErrorCode::kNoBoot, "handlers");  // negative
  memory_.write_value(Gpa(0x100000), std::uint64_t{0});
  expect_error(find(), ErrorCode::kNoBoot, "handlers");
  vcpus_[0].cr3 = 0;
  expect_error(find(), ErrorCode::kNoBoot, "no vCPU has page tables");
  vcpus_.clear();
  expect_error(find(), ErrorCode::kNoBoot, "no vCPU has page tables");
}

TEST_F(KernelLocationTest, LaterVcpuHasTheIdt) {
  boot({});
  vcpus_.insert(vcpus_.begin(), VcpuWitness{});
  vcpus_[0].idt_limit = 0xffff;
  const auto found = find();
  expect_found(found);
  EXPECT_NE(found->evidence.find("IDT of vCPU 1"), std::string::npos);
}

TEST_F(KernelLocationTest, SecondWitnesses) {
  boot({});
  vcpus_[0].lstar = kSymbols.at("entry_SYSCALL_64") + guest_.slide;
  Vmcoreinfo info;
  info.kernel_offset = guest_.slide;
  info.physical_base = base_;
  info.paging = guest_.levels;
  info.init_top_pgt = Kva(kSymbols.at("init_top_pgt") + guest_.slide);
  const auto found = find(&info, Kva(kText + guest_.slide));
  expect_found(found);
  EXPECT_NE(
      found->evidence.find("by the address given for _text and VMCOREINFO and the IDT of vCPU 0 and LSTAR "
                           "of vCPU 0"),
      std::string::npos)
      << found->evidence;
  // A core file without registers.
  vcpus_.clear();
  expect_found(find(&info));
}

TEST_F(KernelLocationTest, WitnessesThatDisagree) {
  boot({});
  vcpus_[0].lstar = kSymbols.at("entry_SYSCALL_64") + 0x2000000;
  expect_error(find(), ErrorCode::kUsage,
               "slide 0x1a000000 by the IDT of vCPU 0, 0x2000000 by LSTAR of vCPU 0");
  vcpus_[0].lstar = 0xffffffffc0001234;  // no place of a kernel's: passed over
  expect_found(find());
  Vmcoreinfo info;
  info.kernel_offset = 0;
  expect_error(find(&info), ErrorCode::kUsage, "disagree");
  info.kernel_offset = 0x1000;
  expect_error(find(&info), ErrorCode::kUsage, "KERNELOFFSET");
  info.kernel_offset = guest_.slide;
  info.physical_base = 0;
  expect_error(find(&info), ErrorCode::kUsage, "by VMCOREINFO");
  info.physical_base = base_;
  info.paging = PagingLevels::kFive;
  expect_error(find(&info), ErrorCode::kUsage, "levels of page tables");
  info.paging = guest_.levels;
  info.init_top_pgt = Kva(kSymbols.at("init_top_pgt"));
  expect_error(find(&info), ErrorCode::kUsage, "init_top_pgt is at");
  expect_error(find(nullptr, Kva(kText + 0x1234)), ErrorCode::kUsage, "cannot run at");
}

TEST_F(KernelLocationTest, MemoryThatDoesNotMatch) {
  boot({});
  std::vector<std::byte> banner;
  for (const char c : kBanner) banner.push_back(static_cast<std::byte>(c));
  const std::vector<ImageBytes> expected = {{kSymbols.at("linux_banner"), banner}};
  expect_found(find(nullptr, {}, expected));
  write("linux_banner", "Linux version 7.2.14");
  expect_error(find(nullptr, {}, expected), ErrorCode::kUsage, "another kernel");
  write("linux_banner", "nothing");
  expect_error(find(), ErrorCode::kUsage, "banner");
  write("linux_banner", kBanner);

  memory_.write_value(place("page_offset_base"), std::uint64_t{0x1234});
  expect_error(find(), ErrorCode::kUsage, "page_offset_base holds");
  memory_.write_value(place("page_offset_base"), std::uint64_t{0xffffa00000000000});
  expect_error(find(), ErrorCode::kUsage, "in the direct map");
  memory_.write_value(place("page_offset_base"), guest_.page_offset);
  memory_.write_value(place("phys_base"), base_ + 0x200000);
  expect_error(find(), ErrorCode::kNoBoot, "phys_base says otherwise");
}

TEST_F(KernelLocationTest, MissingSymbols) {
  boot({});
  symbols_ = symbols("asm_exc_page_fault");
  expect_error(find(), ErrorCode::kKernelLacks, "asm_exc_page_fault");
  symbols_ = symbols("init_top_pgt");
  expect_error(find(), ErrorCode::kKernelLacks, "init_top_pgt");
  symbols_ = symbols("phys_base");
  expect_found(find());
}

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(Vmcoreinfo, TextAndNote) {
  const std::string text =
      "OSRELEASE=7.2.13+deb14-cloud-amd64\nBUILD-ID=00ff12\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff9b000000\n"
      "NUMBER(phys_base)=-351272960\nSYMBOL(init_top_pgt)=ffffffff9ce2a000\nNUMBER(pgtable_l5_enabled)=1\n"
      "KERNELOFFSET=1a000000\nNUMBER(sme_mask)=0\nlast line without an end";
  const auto check = [](const Expected<Vmcoreinfo>& info) {
    ASSERT_TRUE(info) << info.error().to_string();
    EXPECT_EQ(info->os_release, "7.2.13+deb14-cloud-amd64");
    EXPECT_EQ(info->build_id, "00ff12");
    EXPECT_EQ(info->kernel_offset, 0x1a000000u);
    EXPECT_EQ(info->physical_base, -351272960);
    EXPECT_EQ(info->init_top_pgt, Kva(0xffffffff9ce2a000));
    EXPECT_EQ(info->stext, Kva(0xffffffff9b000000));
    EXPECT_EQ(info->paging, PagingLevels::kFive);
    EXPECT_EQ(info->sme_mask, 0u);
  };
  check(parse_vmcoreinfo(bytes(text)));
  std::string note = std::string("\x0b\0\0\0", 4);
  for (int shift = 0; shift < 32; shift += 8) note += static_cast<char>(text.size() >> shift & 0xff);
  note += std::string("\0\0\0\0VMCOREINFO\0\0", 16) + text + std::string(100, '\0');
  check(parse_vmcoreinfo(bytes(note)));
}

TEST(Vmcoreinfo, Damaged) {
  EXPECT_FALSE(parse_vmcoreinfo({}));
  EXPECT_FALSE(parse_vmcoreinfo(bytes("hello")));
  EXPECT_FALSE(parse_vmcoreinfo(bytes("OSRELEASE=1\nKERNELOFFSET=xyz\n")));
  EXPECT_FALSE(parse_vmcoreinfo(bytes("OSRELEASE=1\nKERNELOFFSET=\n")));
  EXPECT_FALSE(parse_vmcoreinfo(bytes("OSRELEASE=1\nNUMBER(phys_base)=99999999999999999999\n")));
  EXPECT_FALSE(parse_vmcoreinfo(bytes(std::string(70000, 'x'))));
  const auto empty = parse_vmcoreinfo(bytes("OSRELEASE=1\n"));
  ASSERT_TRUE(empty);
  EXPECT_FALSE(empty->kernel_offset);
}

}  // namespace
}  // namespace ktstr
