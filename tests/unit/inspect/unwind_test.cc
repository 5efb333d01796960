#include "host/inspect/stack/unwind.h"

#include <elf.h>

#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/inspect/mock_kernel.h"

namespace ktstr {
namespace {

using Register = OrcRule::Register;
using Type = OrcRule::Type;
using End = StackTrace::End;

constexpr std::uint64_t kIps = 0xffffffff82000000;
constexpr std::uint64_t kText = 0xffffffff81000000;
constexpr std::uint64_t kSlide = 0x6000000;
constexpr Unwinder kUnwinder = {
    .orc = nullptr, .slide = kSlide, .text = {kText + kSlide, kText + kSlide + 0x10000}};

// Numbers of registers as 7.2 has them.
enum Number : unsigned {
  kUndef = 0,
  kDi = 5,
  kSp = 3,
  kBp = 4,
  kPrevSp = 8,
  kSpIndirect = 9,
  kBpIndirect = 10
};
enum Kind : unsigned { kNoRule = 0, kEnd = 1, kCall = 2, kRegs = 3, kPartial = 4 };

struct RawRule {
  std::uint64_t offset = 0;  // from kText
  int sp_offset = 0;
  unsigned sp = kSp;
  unsigned type = kCall;
  unsigned bp = kUndef;
  int bp_offset = 0;
  bool signal = false;
};

// An ELF with the two sections, and a third for their names.
std::string make_elf(const std::vector<RawRule>& rules) {
  std::string ips;
  std::string entries;
  const auto put = [](std::string& to, const auto& value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  for (const RawRule& rule : rules) {
    put(ips, static_cast<std::int32_t>(kText + rule.offset - (kIps + ips.size())));
    put(entries, static_cast<std::int16_t>(rule.sp_offset));
    put(entries, static_cast<std::int16_t>(rule.bp_offset));
    put(entries,
        static_cast<std::uint16_t>(rule.sp | rule.bp << 4 | rule.type << 8 | (rule.signal ? 1u << 11 : 0)));
  }
  const std::string names("\0.orc_unwind_ip\0.orc_unwind\0.shstrtab\0", 38);
  std::string image(sizeof(Elf64_Ehdr), '\0');
  std::vector<Elf64_Shdr> sections(1);
  const auto add = [&](std::uint32_t name, std::uint32_t type, std::uint64_t address,
                       const std::string& bytes) {
    Elf64_Shdr section = {};
    section.sh_name = name;
    section.sh_type = type;
    section.sh_addr = address;
    section.sh_offset = image.size();
    section.sh_size = bytes.size();
    sections.push_back(section);
    image += bytes;
  };
  add(1, SHT_PROGBITS, kIps, ips);
  add(16, SHT_PROGBITS, kIps + ips.size(), entries);
  add(28, SHT_STRTAB, 0, names);
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_ehsize = sizeof header;
  header.e_shoff = image.size();
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = static_cast<std::uint16_t>(sections.size());
  header.e_shstrndx = 3;
  for (const Elf64_Shdr& section : sections) put(image, section);
  std::memcpy(image.data(), &header, sizeof header);
  return image;
}

class UnwindTest : public ::testing::Test {
 protected:
  void use(const std::vector<RawRule>& rules) {
    image_ = make_elf(rules);
    const auto elf = ElfView::parse(std::as_bytes(std::span(image_)), "test");
    ASSERT_TRUE(elf) << elf.error().to_string();
    auto table = OrcTable::parse(*elf, "test");
    ASSERT_TRUE(table) << table.error().to_string();
    table_ = *table;
  }
  // Where the code at kText + offset runs.
  static Kva code(std::uint64_t offset) { return Kva(kText + kSlide + offset); }
  static Kva stack(std::uint64_t offset) { return MockKernel::at(0x4000 + offset); }

  StackTrace walk(const StackStart& start, bool with_orc = true) {
    Unwinder unwinder = kUnwinder;
    if (with_orc) unwinder.orc = &table_;
    ReadBudget budget = ample();
    return unwind(kernel_, budget, unwinder, start, stacks_);
  }
  static std::vector<Frame> frames(std::initializer_list<std::uint64_t> offsets) {
    std::vector<Frame> all;
    for (const std::uint64_t offset : offsets) all.push_back({.ip = code(offset)});
    return all;
  }

  MockKernel kernel_;
  std::string image_;
  OrcTable table_;
  std::vector<StackBounds> stacks_ = {{stack(0), stack(0x4000)}};
};

// leaf (+0x10) called by middle, which uses rbp, called by entry code, called from user mode.
const std::vector<RawRule> kRules = {
    {.offset = 0x000, .sp_offset = 8},
    {.offset = 0x010, .sp_offset = 0x20},
    {.offset = 0x100, .sp_offset = 16, .sp = kBp, .bp = kPrevSp, .bp_offset = -16},
    {.offset = 0x200, .sp_offset = 0, .type = kRegs, .signal = true},
    {.offset = 0x300, .type = kEnd},
    {.offset = 0x400, .type = kNoRule},
    {.offset = 0x500, .sp_offset = 8, .type = kPartial, .signal = true},
    {.offset = 0x600, .sp_offset = 8, .sp = kSpIndirect},
    {.offset = 0x700, .sp = kDi},
    {.offset = 0x800, .sp = 15},
    {.offset = 0x900, .sp_offset = 8, .bp = 15},
    {.offset = 0xa00},  // stays where it is
    {.offset = 0xb00, .sp_offset = -8, .sp = kBpIndirect},
    {.offset = 0xc00, .sp_offset = 8},
};

TEST_F(UnwindTest, TableFindsRules) {
  use(kRules);
  EXPECT_EQ(table_.size(), kRules.size());
  EXPECT_FALSE(table_.old_numbering());
  EXPECT_EQ(table_.find(kText + 0x00f)->sp_offset, 8);
  const auto rule = table_.find(kText + 0x17f);
  ASSERT_TRUE(rule);
  EXPECT_EQ(*rule, (OrcRule{.sp_offset = 16,
                            .bp_offset = -16,
                            .sp_register = Register::kBp,
                            .bp_register = Register::kPrevSp,
                            .type = Type::kCall}));
  EXPECT_TRUE(table_.find(kText + 0x200)->signal);
  EXPECT_EQ(table_.find(kText + 0x800)->sp_register, Register::kUnknown);
  EXPECT_FALSE(table_.find(kText - 1));
  EXPECT_FALSE(table_.find(kText + 0xc00));
  // Of several at one place the last.
  use({{.offset = 0}, {.offset = 8, .type = kNoRule}, {.offset = 8, .sp_offset = 24}, {.offset = 16}});
  EXPECT_EQ(table_.find(kText + 8)->sp_offset, 24);
}

TEST_F(UnwindTest, OldNumbers) {
  use({{.offset = 0, .sp = 5, .bp = 1},
       {.offset = 8, .sp = 5},
       {.offset = 16, .sp = 9},
       {.offset = 24, .sp = 5}});
  EXPECT_TRUE(table_.old_numbering());
  EXPECT_EQ(table_.find(kText)->sp_register, Register::kSp);
  EXPECT_EQ(table_.find(kText)->bp_register, Register::kPrevSp);
  EXPECT_EQ(table_.find(kText + 16)->sp_register, Register::kSpIndirect);
}

TEST_F(UnwindTest, TablesThatAreRefused) {
  const auto parse = [](const std::string& image) {
    const auto elf = ElfView::parse(std::as_bytes(std::span(image)), "test");
    return OrcTable::parse(elf ? *elf : ElfView(), "test");
  };
  EXPECT_EQ(parse("").error().code(), ErrorCode::kKernelLacks);
  EXPECT_EQ(parse(make_elf({})).error().code(), ErrorCode::kUsage);
  const auto unsorted = parse(make_elf({{.offset = 8}, {.offset = 0}}));
  ASSERT_FALSE(unsorted);
  EXPECT_NE(unsorted.error().to_string().find("not sorted"), std::string::npos);
}

TEST_F(UnwindTest, FromLeafToUserMode) {
  use(kRules);
  kernel_.put(stack(0x118), code(0x120));  // 0x100 + 0x20 - 8
  // middle: rbp = 0x130, frame of 16: old rbp, return address.
  kernel_.put_words(stack(0x130), {0x1234, code(0x210).value()});
  // pt_regs at 0x140 of a task that came from user mode.
  kernel_.put(stack(0x140 + 17 * 8), std::uint64_t{0x33});
  const auto trace = walk({.ip = code(0x20), .sp = stack(0x100), .bp = stack(0x130), .registers = {}});
  auto expected = frames({0x20, 0x120, 0x210});
  expected[0].exact = true;
  EXPECT_EQ(trace.frames, expected);
  EXPECT_EQ(trace.end, End::kUserMode);
  EXPECT_EQ(trace.note, "");
}

// The interrupted function saved nothing; its rbp is in pt_regs, and its own address is exact.
TEST_F(UnwindTest, ThroughAnInterrupt) {
  use(kRules);
  const std::uint64_t regs = 0x200;
  kernel_.put(stack(regs + 4 * 8), stack(0x330));  // bp
  kernel_.put(stack(regs + 16 * 8), code(0x100));  // ip: the first instruction of middle
  kernel_.put(stack(regs + 17 * 8), std::uint64_t{0x10});
  kernel_.put(stack(regs + 19 * 8), stack(0x320));  // sp
  kernel_.put_words(stack(0x330), {0, code(0x301).value()});
  const auto trace = walk({.ip = code(0x210), .sp = stack(regs), .bp = Kva(0), .registers = {}});
  auto expected = frames({0x210, 0x100, 0x301});
  expected[0].exact = expected[1].exact = true;
  EXPECT_EQ(trace.frames, expected);
  EXPECT_EQ(trace.end, End::kComplete);
}

TEST_F(UnwindTest, FromTheInterruptStackToTheTask) {
  use(kRules);
  stacks_.push_back({MockKernel::at(0x1000), MockKernel::at(0x2000)});
  kernel_.put(MockKernel::at(0x1ff0), stack(0x400));  // the task's stack pointer
  kernel_.put(stack(0x400), code(0x310));
  const auto trace = walk({.ip = code(0x610), .sp = MockKernel::at(0x1ff0), .bp = Kva(), .registers = {}});
  ASSERT_EQ(trace.frames.size(), 2u) << trace.note;
  EXPECT_EQ(trace.frames[1].ip, code(0x310));
  EXPECT_EQ(trace.end, End::kComplete);
}

TEST_F(UnwindTest, SleepingTask) {
  use(kRules);
  kernel_.put_words(stack(0x100), {15, 14, 13, 12, 11, stack(0x200).value(), code(0x20).value()});
  kernel_.put(stack(0x138 + 0x18), code(0x300));  // noreturn call at the very end of middle
  kernel_.put_words(stack(0x200), {0, 0});
  ReadBudget budget = ample();
  const auto start = sleeping_task(kernel_, budget, stack(0x100));
  ASSERT_TRUE(start);
  EXPECT_EQ(start->bp, stack(0x200));
  const auto trace = walk(*start);
  EXPECT_EQ(trace.frames.at(0), (Frame{.ip = code(0x20)}));
  EXPECT_EQ(trace.frames.at(1).ip, code(0x300));
  EXPECT_FALSE(sleeping_task(kernel_, budget, Kva(8)));
}

TEST_F(UnwindTest, PartialRegistersAndRegistersThatAreMissing) {
  use(kRules);
  kernel_.put_words(stack(0x108), {code(0x710).value(), 0x10, 0, stack(0x140).value(), 0});
  auto trace = walk({.ip = code(0x510), .sp = stack(0x100), .bp = Kva(), .registers = {}});
  ASSERT_GE(trace.frames.size(), 2u);
  EXPECT_EQ(trace.frames[1], (Frame{.ip = code(0x710), .exact = true}));
  EXPECT_NE(trace.note.find("register that is not known"), std::string::npos);
  // The first frame knows its registers.
  kernel_.put(stack(0x1f8), code(0x310));
  trace = walk({.ip = code(0x710),
                .sp = stack(0x100),
                .bp = Kva(),
                .registers = StackStart::Registers{.di = stack(0x200).value()}});
  EXPECT_EQ(trace.end, End::kComplete);
  EXPECT_EQ(trace.frames.size(), 2u);
}

TEST_F(UnwindTest, RestIsScanned) {
  use(kRules);
  kernel_.put(stack(0x118), Kva(0xffffffffc0001234));  // a module
  kernel_.put_words(stack(0x140), {code(0x120).value(), 7, code(0).value(), code(0x310).value()});
  const auto trace = walk({.ip = code(0x20), .sp = stack(0x100), .bp = Kva(), .registers = {}});
  ASSERT_EQ(trace.frames.size(), 4u);
  EXPECT_EQ(trace.frames[1].ip, Kva(0xffffffffc0001234));
  EXPECT_EQ(trace.frames[2], (Frame{.ip = code(0x120), .guess = true}));
  EXPECT_EQ(trace.frames[3], (Frame{.ip = code(0x310), .guess = true}));
  EXPECT_EQ(trace.end, End::kScanned);
  EXPECT_EQ(trace.note, "no ORC rule for 0xffffffffc0001234");
}

TEST_F(UnwindTest, DamagedStacksEnd) {
  use(kRules);
  // Down the stack: bp points below.
  kernel_.put_words(stack(0x50), {0, code(0x120).value()});
  auto trace = walk({.ip = code(0x110), .sp = stack(0x100), .bp = stack(0x50), .registers = {}});
  EXPECT_NE(trace.note.find("down the stack"), std::string::npos) << trace.note;
  // Never moves.
  kernel_.put(stack(0xf8), code(0xa10));
  trace = walk({.ip = code(0xa10), .sp = stack(0x100), .bp = Kva(), .registers = {}});
  EXPECT_NE(trace.note.find("down the stack"), std::string::npos) << trace.note;
  for (const std::uint64_t offset : {0x410u, 0x810u, 0x910u}) {
    trace = walk({.ip = code(offset), .sp = stack(0x100), .bp = Kva(), .registers = {}});
    EXPECT_NE(trace.note.find("undefined"), std::string::npos) << trace.note;
  }
  trace = walk({.ip = code(0xb10), .sp = stack(0x100), .bp = Kva(0x10), .registers = {}});
  EXPECT_EQ(trace.note, "0x8 is on no stack");
  trace = walk({.ip = code(0x20), .sp = Kva(0x10), .bp = Kva(), .registers = {}});
  EXPECT_EQ(trace.end, End::kOutOfReach);
  EXPECT_EQ(trace.frames.size(), 1u);
}

TEST_F(UnwindTest, NoMoreThanTheLimit) {
  use(kRules);
  for (std::uint64_t at = 0; at < 0x4000; at += 8) kernel_.put(stack(at), code(0x8));
  auto trace = walk({.ip = code(0x8), .sp = stack(0), .bp = Kva(), .registers = {}});
  EXPECT_EQ(trace.frames.size(), kMaxFrames);
  EXPECT_EQ(trace.end, End::kLimit);
  EXPECT_FALSE(trace.frames.back().guess);
  trace = walk({.ip = code(0x8), .sp = stack(1), .bp = Kva(), .registers = {}}, false);
  EXPECT_EQ(trace.frames.size(), kMaxFrames);
  EXPECT_TRUE(trace.frames.back().guess);
  EXPECT_EQ(trace.note, "the kernel has no ORC tables");
}

}  // namespace
}  // namespace ktstr
