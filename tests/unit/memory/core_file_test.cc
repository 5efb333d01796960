#include "host/memory/core_file.h"

#include <elf.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/memory/core_writer.h"
#include "host/memory/mock_memory.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr std::uint64_t kMiB = 1 << 20;

struct Segment {
  std::uint32_t type = PT_LOAD;
  std::uint64_t gpa = 0;
  std::string bytes;
  std::uint64_t memory = 0;  // 0: as many as there are bytes
};

// A core as a file would have it.
std::string core_of(const std::vector<Segment>& segments) {
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_CORE;
  header.e_machine = EM_X86_64;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<Elf64_Half>(segments.size());
  std::string file(reinterpret_cast<const char*>(&header), sizeof header);
  std::string contents;
  for (const Segment& segment : segments) {
    Elf64_Phdr load = {};
    load.p_type = segment.type;
    load.p_offset = sizeof header + segments.size() * sizeof load + contents.size();
    load.p_paddr = segment.gpa;
    load.p_filesz = segment.bytes.size();
    load.p_memsz = segment.memory == 0 ? segment.bytes.size() : segment.memory;
    file.append(reinterpret_cast<const char*>(&load), sizeof load);
    contents += segment.bytes;
  }
  return file + contents;
}

std::string note(const std::string& name, std::uint32_t type, std::string contents) {
  const Elf64_Nhdr header{static_cast<Elf64_Word>(name.size() + 1), static_cast<Elf64_Word>(contents.size()),
                          type};
  std::string padded = name;
  padded.resize((name.size() + 4) / 4 * 4);
  contents.resize((contents.size() + 3) / 4 * 4);
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + padded + contents;
}

Expected<CoreFile> parse(const std::string& bytes) {
  return CoreFile::parse(std::as_bytes(std::span(bytes)), "'core'");
}

std::string refusal(const std::string& bytes) {
  const auto core = parse(bytes);
  EXPECT_FALSE(core);
  if (core) return "";
  EXPECT_EQ(core.error().code(), ErrorCode::kUsage);
  return core.error().to_string();
}

std::string text_at(const GuestMemory& memory, std::uint64_t gpa, std::size_t size) {
  std::string text(size, '?');
  ReadBudget budget(1 << 20, 1 << 10);
  const auto read = memory.read(Gpa(gpa), std::as_writable_bytes(std::span(text)), budget);
  return read ? text : read.error().to_string();
}

TEST(CoreFile, ReadsSegmentsByPhysicalAddress) {
  const std::string bytes = core_of({{PT_NOTE, 0, note("VMCOREINFO", 0, "OSRELEASE=7.2.13\n"), 0},
                                     {PT_LOAD, 0x100000, "high", 0},
                                     {PT_LOAD, 0x1000, "lower", 0},
                                     {PT_LOAD, ~0ull, "vmalloc", 0}});
  const auto core = parse(bytes);
  ASSERT_TRUE(core) << core.error().to_string();
  EXPECT_EQ(text_at(core->memory(), 0x1000, 5), "lower");
  EXPECT_EQ(text_at(core->memory(), 0x100000, 4), "high");
  EXPECT_EQ(core->memory().total_bytes(), 9u);
  EXPECT_EQ(core->vmcoreinfo(), "OSRELEASE=7.2.13\n");
  EXPECT_EQ(core->kind(), CoreFile::Kind::kKdump);
  EXPECT_TRUE(core->vcpus().empty());
}

TEST(CoreFile, OverlapIsCutAndHolesAreZeros) {
  const std::string bytes = core_of({{PT_LOAD, 0x1000, std::string(0x2000, 'a'), 0},
                                     {PT_LOAD, 0x1800, std::string(0x2000, 'b'), 0x4000},
                                     {PT_LOAD, 0x2000, std::string(0x100, 'c'), 0},
                                     {PT_LOAD, 0x5000, std::string(0x10, 'd'), 0x800}});
  const auto core = parse(bytes);
  ASSERT_TRUE(core) << core.error().to_string();
  EXPECT_EQ(text_at(core->memory(), 0x2ffe, 4), "aabb");
  EXPECT_EQ(text_at(core->memory(), 0x37ff, 3), std::string("b\0\0", 3));
  EXPECT_EQ(text_at(core->memory(), 0x4fff, 2), std::string("\0d", 2));
  EXPECT_EQ(core->left_out_bytes(), 0x5800u - 0x3800u - 0x10u);
  EXPECT_EQ(core->memory().total_bytes(), 0x4800u);
}

TEST(CoreFile, SaysWhatAFileIsInstead) {
  using namespace std::string_literals;
  EXPECT_THAT(refusal(""), HasSubstr("is empty"));
  EXPECT_THAT(refusal("hello"), HasSubstr("is no ELF core"));
  EXPECT_THAT(refusal("KDUMP   xxxxxxx"), HasSubstr("makedumpfile -E"));
  EXPECT_THAT(refusal("makedumpfile\0\0\0\0"s), HasSubstr("makedumpfile -R"));
  EXPECT_THAT(refusal("\x28\xb5\x2f\xfdzzz"), HasSubstr("zstd -d"));
  EXPECT_THAT(refusal("\x1f\x8bzzz"), HasSubstr("gunzip"));
  EXPECT_THAT(refusal("QEVM\0\0"s), HasSubstr("dump-guest-memory"));

  const std::string good = core_of({{PT_LOAD, 0x1000, "memory", 0}});
  const auto with = [&](std::size_t at, char value) {
    std::string bytes = good;
    bytes[at] = value;
    return bytes;
  };
  EXPECT_THAT(refusal(with(offsetof(Elf64_Ehdr, e_machine), static_cast<char>(EM_AARCH64))),
              HasSubstr("is of aarch64; only x86-64"));
  EXPECT_THAT(refusal(with(EI_CLASS, ELFCLASS32)), HasSubstr("32-bit ELF"));
  EXPECT_THAT(refusal(with(EI_DATA, ELFDATA2MSB)), HasSubstr("big-endian"));
  EXPECT_THAT(refusal(with(offsetof(Elf64_Ehdr, e_type), ET_EXEC)), HasSubstr("--vmlinux"));
  EXPECT_THAT(refusal(core_of({{PT_NOTE, 0, note("CORE", NT_AUXV, "x"), 0}, {PT_LOAD, 0, "stack", 0}})),
              HasSubstr("core of a process"));
  EXPECT_THAT(refusal(core_of({})), HasSubstr("holds no memory"));
  EXPECT_THAT(refusal(core_of({{PT_LOAD, 1ull << 60, "x", 0}})), HasSubstr("beyond the last address"));
}

TEST(CoreFile, EveryTruncationIsSeen) {
  const std::string good =
      core_of({{PT_NOTE, 0, note("VMCOREINFO", 0, "a"), 0}, {PT_LOAD, 0x1000, "memory", 0}});
  ASSERT_TRUE(parse(good));
  for (std::size_t size = 4; size < good.size(); ++size) {
    EXPECT_THAT(refusal(good.substr(0, size)), HasSubstr("is cut off")) << size;
  }
}

TEST(CoreFile, NotesOfAllSegmentsAreBounded) {
  std::string bytes = core_of({{PT_NOTE, 0, std::string(CoreFile::kMaxNoteBytes / 2 + 1, '\0'), 0},
                               {PT_NOTE, 0, "", 0},
                               {PT_LOAD, 0, "ram", 0}});
  EXPECT_TRUE(parse(bytes));
  // The second segment names the bytes of the first.
  char* const headers = bytes.data() + sizeof(Elf64_Ehdr);
  std::memcpy(headers + sizeof(Elf64_Phdr), headers, sizeof(Elf64_Phdr));
  EXPECT_THAT(refusal(bytes), HasSubstr("has 67108866 bytes of notes; more than 67108864 are not read"));
}

TEST(CoreFile, DamagedNotesEndTheList) {
  std::string notes = note("VMCOREINFO", 0, "fine");
  std::string bad = note("CORE", NT_PRSTATUS, std::string(336, 'x'));
  std::memset(bad.data(), 0xff, 8);
  const std::string bytes = core_of({{PT_NOTE, 0, notes + bad, 0}, {PT_LOAD, 0, "m", 0}});
  const auto core = parse(bytes);
  ASSERT_TRUE(core);
  EXPECT_EQ(core->vmcoreinfo(), "fine");
  EXPECT_TRUE(core->vcpus().empty());
}

class CoreWriterTest : public testing::Test {
 protected:
  CoreWriterTest() {
    std::string name = (fs::temp_directory_path() / "ktstr-core-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    mock_.add_ram(Gpa(0), 640 << 10);
    mock_.add_ram(Gpa(kMiB), 8 * kMiB + 100);
    mock_.write_text(Gpa(0x500), "first");
    mock_.write_text(Gpa(kMiB + 4095), "seam");
    mock_.write_text(Gpa(9 * kMiB + 96), "last");
    contents_.ranges = {{Gpa(0), 640 << 10}, {Gpa(kMiB), 8 * kMiB + 100}};
    contents_.direct_map = Kva(0xffff888000000000);
    contents_.vmcoreinfo = "OSRELEASE=7.2.13\nPAGESIZE=4096\n";
    for (std::uint64_t cpu = 0; cpu < 2; ++cpu) {
      VcpuRegistersOfCore vcpu;
      for (std::uint64_t i = 0; i < 16; ++i) vcpu.general[i] = cpu * 100 + i;
      vcpu.rip = 0xffffffff81000000 + cpu;
      vcpu.rflags = 0x246;
      vcpu.cs = 0x10;
      vcpu.gs_base = 0xffff88803ec00000;
      vcpu.cr0 = 0x80050033;
      vcpu.cr2 = 0x7f00;
      vcpu.cr3 = 0x1000 + cpu;
      vcpu.cr4 = 0x6f0;
      vcpu.idt_base = 0xfffffe0000000000;
      vcpu.idt_limit = 0xfff;
      vcpu.kernel_gs_base = 5;
      contents_.vcpus.push_back(vcpu);
    }
  }
  ~CoreWriterTest() override { fs::remove_all(folder_); }

  std::string path() const { return (folder_ / "vmcore").string(); }

  fs::path folder_;
  MockMemory mock_;
  CoreContents contents_;
};

TEST_F(CoreWriterTest, WhatIsWrittenIsReadBack) {
  const auto written = write_core(path(), mock_.memory(), contents_);
  ASSERT_TRUE(written) << written.error().to_string();
  const auto core = CoreFile::open(path());
  ASSERT_TRUE(core) << core.error().to_string();
  EXPECT_EQ(core->kind(), CoreFile::Kind::kQemu);
  EXPECT_EQ(core->vcpus(), contents_.vcpus);
  EXPECT_EQ(core->vmcoreinfo(), contents_.vmcoreinfo);
  EXPECT_EQ(core->memory().total_bytes(), mock_.memory().total_bytes());
  EXPECT_EQ(text_at(core->memory(), 0x500, 6), std::string("first\0", 6));
  EXPECT_EQ(text_at(core->memory(), kMiB + 4095, 4), "seam");
  EXPECT_EQ(text_at(core->memory(), 9 * kMiB + 96, 4), "last");
}

// crash takes page-aligned segments that say so for a netdump, and dies.
TEST_F(CoreWriterTest, SegmentsOfMemoryClaimNoAlignment) {
  ASSERT_TRUE(write_core(path(), mock_.memory(), contents_));
  std::ifstream file(path(), std::ios::binary);
  Elf64_Ehdr header = {};
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  ASSERT_EQ(header.e_phnum, 3);
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment = {};
    file.read(reinterpret_cast<char*>(&segment), sizeof segment);
    ASSERT_TRUE(file);
    EXPECT_EQ(segment.p_align, 0u) << i;
    EXPECT_EQ(segment.p_type, i == 0 ? PT_NOTE : PT_LOAD) << i;
  }
}

TEST_F(CoreWriterTest, PagesOfZerosAreHoles) {
  ASSERT_TRUE(write_core(path(), mock_.memory(), contents_));
  struct stat st = {};
  ASSERT_EQ(::stat(path().c_str(), &st), 0);
  EXPECT_GT(static_cast<std::uint64_t>(st.st_size), 8 * kMiB);
  EXPECT_LT(st.st_blocks * 512, 256 << 10);
}

TEST_F(CoreWriterTest, WithoutControlRegistersThereIsNoQemuNote) {
  for (auto& vcpu : contents_.vcpus) vcpu.cr3.reset();
  ASSERT_TRUE(write_core(path(), mock_.memory(), contents_));
  const auto core = CoreFile::open(path());
  ASSERT_TRUE(core);
  EXPECT_EQ(core->kind(), CoreFile::Kind::kKdump);
  ASSERT_EQ(core->vcpus().size(), 2u);
  EXPECT_EQ(core->vcpus()[1].general, contents_.vcpus[1].general);
  EXPECT_FALSE(core->vcpus()[1].cr3);
}

TEST_F(CoreWriterTest, AFailureLeavesNothing) {
  EXPECT_EQ(write_core((folder_ / "no" / "core").string(), mock_.memory(), contents_).error().code(),
            ErrorCode::kHost);
  rlimit before = {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = kMiB, .rlim_max = before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const auto full = write_core(path(), mock_.memory(), contents_);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(full);
  EXPECT_THAT(full.error().to_string(), HasSubstr("vmcore': File too large"));
  contents_.ranges[0].size = 900 << 10;
  EXPECT_THAT(write_core(path(), mock_.memory(), contents_).error().to_string(), HasSubstr("not RAM"));
  EXPECT_EQ(fs::directory_iterator(folder_), fs::directory_iterator());
}

}  // namespace
}  // namespace ktstr
