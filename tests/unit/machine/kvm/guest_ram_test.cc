#include "host/machine/kvm/guest_ram.h"

#include <linux/mempolicy.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/temp_file.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint64_t kPage = 4096;

GuestRam make_ram(std::vector<std::uint64_t> nodes, RamPages pages = RamPages::kNormal) {
  return GuestRam::create(nodes, pages).value();
}

bool equal(std::span<const std::byte> ram, std::span<const std::uint8_t> bytes) {
  return std::ranges::equal(ram, std::as_bytes(bytes));
}

bool zero(std::span<const std::byte> ram) {
  return std::ranges::all_of(ram, [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(GuestRam, WholePagesAreMappedAndTheRestIsCopied) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(2 * kPage + 100);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, bytes.size(), 16 * kPage));
  EXPECT_EQ(ram.mapped_bytes(), 2 * kPage);
  EXPECT_TRUE(equal(ram.bytes(16 * kPage, bytes.size()), bytes));
  // Nothing of the file, or of the page cache behind its end, follows.
  EXPECT_TRUE(zero(ram.bytes(16 * kPage + bytes.size(), 4 * kPage)));
  EXPECT_TRUE(zero(ram.bytes(0, 16 * kPage)));
}

TEST(GuestRam, WhatIsMappedIsTheGuestsOwnCopy) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(kPage);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, kPage, 0));
  ram.bytes(0, 1)[0] = std::byte{0xee};
  std::uint8_t in_file = 0;
  ASSERT_EQ(pread(file.get(), &in_file, 1, 0), 1);
  EXPECT_EQ(in_file, bytes[0]);
}

TEST(GuestRam, ANodesMemoryIsTakenFromTheHostsNodes) {
  GuestRam ram = make_ram({kMiB, kMiB});
  const auto bound = ram.prefer_host_nodes(1, CpuSet::first(1));
  // A container's rules. Anything else is a failure: there is a node 0 in every host.
  if (!bound && (bound.error().errno_value() == EPERM || bound.error().errno_value() == ENOSYS))
    GTEST_SKIP() << bound.error().to_string();
  ASSERT_TRUE(bound) << bound.error().to_string();
  const auto policy_of = [&ram](std::uint64_t gpa) {
    int policy = -1;
    std::array<unsigned long, 16> mask = {};
    EXPECT_EQ(syscall(SYS_get_mempolicy, &policy, mask.data(), 1024, ram.bytes(gpa, 1).data(), MPOL_F_ADDR),
              0);
    return std::pair(policy, mask[0]);
  };
  EXPECT_EQ(policy_of(kMiB), std::pair(int{MPOL_PREFERRED_MANY}, 1UL));
  EXPECT_EQ(policy_of(2 * kMiB - 1), std::pair(int{MPOL_PREFERRED_MANY}, 1UL));
  EXPECT_EQ(policy_of(0).first, int{MPOL_DEFAULT});
  const auto nowhere = ram.prefer_host_nodes(0, CpuSet({1000}));
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code(), ErrorCode::kHost);
  EXPECT_NE(nowhere.error().to_string().find("node 0 from the host's nodes 1000"), std::string::npos);
}

TEST(GuestRam, WhatIsNotCongruentIsCopied) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(3 * kPage);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, bytes.size(), 16 * kPage + 8));
  EXPECT_TRUE(equal(ram.bytes(16 * kPage + 8, bytes.size()), bytes));
  ASSERT_TRUE(ram.load_file(file.get(), 1, kPage, 32 * kPage));
  EXPECT_TRUE(equal(ram.bytes(32 * kPage, kPage), std::span(bytes).subspan(1, kPage)));
  EXPECT_EQ(ram.mapped_bytes(), 0U);
}

TEST(GuestRam, LessThanAPageIsCopied) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(17);
  const UniqueFd file = file_of(bytes);
  ASSERT_TRUE(ram.load_file(file.get(), 0, bytes.size(), kPage));
  EXPECT_TRUE(equal(ram.bytes(kPage, bytes.size()), bytes));
  EXPECT_EQ(ram.mapped_bytes(), 0U);
}

TEST(GuestRam, NothingIsLoadedOutOfRange) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(2 * kPage);
  const UniqueFd file = file_of(bytes);
  for (const std::uint64_t gpa : {kMiB - kPage, kMiB, kMiB + kPage, std::uint64_t{0} - kPage, kHighRamGpa}) {
    const auto loaded = ram.load_file(file.get(), 0, bytes.size(), gpa);
    ASSERT_FALSE(loaded) << gpa;
    EXPECT_EQ(loaded.error().code(), ErrorCode::kUsage);
    EXPECT_NE(loaded.error().to_string().find("do not fit into guest RAM"), std::string::npos);
  }
  EXPECT_TRUE(zero(ram.bytes(0, kMiB)));
}

// A page of a mapping that lies behind the file's end would end the process when the guest touches it.
TEST(GuestRam, AFileThatIsTooShortIsNotMapped) {
  GuestRam ram = make_ram({kMiB});
  const UniqueFd file = file_of(pattern(kPage + 10));
  struct Case {
    std::uint64_t offset, size;
  };
  for (const Case& one : {Case{0, 2 * kPage}, Case{kPage, kPage}, Case{0, kPage + 11}, Case{kPage * 4, kPage},
                          Case{~std::uint64_t{0} - kPage + 1, 2 * kPage}}) {
    const auto loaded = ram.load_file(file.get(), one.offset, one.size, 0);
    ASSERT_FALSE(loaded) << one.offset;
    EXPECT_EQ(loaded.error().code(), ErrorCode::kUsage);
    EXPECT_NE(loaded.error().to_string().find("shorter than its headers say"), std::string::npos);
  }
  EXPECT_TRUE(zero(ram.bytes(0, kMiB)));
  EXPECT_EQ(ram.mapped_bytes(), 0U);
}

TEST(GuestRam, NodesLieEndToEndAndAroundTheHole) {
  GuestRam ram = make_ram({kGiB, 3 * kGiB, kMiB});
  const auto regions = ram.regions();
  std::uint64_t total = 0;
  std::uint64_t end = 0;
  for (const RamRegion& region : regions) {
    EXPECT_GE(region.gpa, end);
    end = region.gpa + region.host.size();
    total += region.host.size();
    EXPECT_TRUE(end <= kLowRamEnd || region.gpa >= kHighRamGpa);
  }
  EXPECT_EQ(total, 4 * kGiB + kMiB);
  EXPECT_EQ(end, 5 * kGiB + kMiB);
  // One piece at a time.
  EXPECT_FALSE(ram.bytes(kGiB - 8, 8).empty());
  EXPECT_TRUE(ram.bytes(kGiB - 8, 16).empty());
  EXPECT_TRUE(ram.bytes(kLowRamEnd - 8, 16).empty());
  EXPECT_TRUE(ram.bytes(kLowRamEnd, 1).empty());
  EXPECT_FALSE(ram.bytes(kHighRamGpa, 1).empty());
  EXPECT_TRUE(ram.bytes(~std::uint64_t{0}, 1).empty());
  EXPECT_TRUE(ram.bytes(8, ~std::uint64_t{0}).empty());
}

// Not the first touch by the guest, which would end the process.
TEST(GuestRam, HugePagesThatAreNotThereAreRefused) {
  std::ifstream file("/proc/sys/vm/nr_hugepages");
  std::uint64_t pages = 0;
  if (!(file >> pages) || pages > 100) GTEST_SKIP() << "this host has huge pages set aside";
  const std::array<std::uint64_t, 1> nodes = {kGiB};
  const auto ram = GuestRam::create(nodes, RamPages::kHuge);
  ASSERT_FALSE(ram);
  EXPECT_EQ(ram.error().code(), ErrorCode::kHost);
  EXPECT_NE(ram.error().to_string().find("/proc/sys/vm/nr_hugepages"), std::string::npos)
      << ram.error().to_string();
}

TEST(GuestRam, NodesOfHugePagesHaveWholeOnes) {
  const std::array<std::uint64_t, 2> nodes = {214 * kMiB, 213 * kMiB};
  const auto ram = GuestRam::create(nodes, RamPages::kHuge);
  ASSERT_FALSE(ram);
  EXPECT_EQ(ram.error().code(), ErrorCode::kUsage);
  EXPECT_NE(ram.error().to_string().find("a multiple of 2 MiB for huge pages, not 213"), std::string::npos)
      << ram.error().to_string();
}

TEST(GuestRam, MoreThanTheAddressSpaceIsRefused) {
  const std::array<std::uint64_t, 1> nodes = {std::uint64_t{1} << 48};
  const auto ram = GuestRam::create(nodes, RamPages::kNormal);
  ASSERT_FALSE(ram);
  EXPECT_EQ(ram.error().code(), ErrorCode::kHost);
  EXPECT_NE(ram.error().to_string().find("guest RAM"), std::string::npos) << ram.error().to_string();
}

// ---------------------------------------------------------------------------------------------------------------------
// Saving, and clones

UniqueFd saved(const GuestRam& ram) {
  UniqueFd file(memfd_create("ram", MFD_CLOEXEC));
  const auto done = ram.save(file.get());
  EXPECT_TRUE(done) << done.error().to_string();
  return file;
}

std::uint64_t size_of(const UniqueFd& file) {
  struct stat st {};
  EXPECT_EQ(fstat(file.get(), &st), 0);
  return static_cast<std::uint64_t>(st.st_size);
}

std::uint64_t blocks_of(const UniqueFd& file) {
  struct stat st {};
  EXPECT_EQ(fstat(file.get(), &st), 0);
  return static_cast<std::uint64_t>(st.st_blocks) * 512;
}

void fill(std::span<std::byte> ram, const std::vector<std::uint8_t>& bytes) {
  std::ranges::copy(std::as_bytes(std::span(bytes)), ram.begin());
}

TEST(GuestRamSave, NodesOneBehindTheOtherAndTheRestIsHoles) {
  const std::vector<std::uint64_t> nodes = {4 * kMiB, 2 * kMiB};
  GuestRam ram = make_ram(nodes);
  const auto bytes = pattern(3 * kPage);
  fill(ram.bytes(16 * kPage, 3 * kPage), bytes);
  fill(ram.bytes(5 * kMiB, 3 * kPage), bytes);
  // Touched, and still zeros.
  for (std::uint64_t page = 100; page < 200; ++page) ram.bytes(page * kPage, 1)[0] = std::byte{0};
  const UniqueFd file = saved(ram);
  EXPECT_EQ(size_of(file), 6 * kMiB);
  EXPECT_EQ(blocks_of(file), 6 * kPage);
  std::vector<std::uint8_t> read(3 * kPage);
  ASSERT_EQ(pread(file.get(), read.data(), read.size(), 5 * kMiB), static_cast<ssize_t>(read.size()));
  EXPECT_EQ(read, bytes);

  auto clone = GuestRam::create_from(file.get(), nodes, RamPages::kNormal);
  ASSERT_TRUE(clone) << clone.error().to_string();
  EXPECT_TRUE(equal(clone->bytes(16 * kPage, bytes.size()), bytes));
  EXPECT_TRUE(equal(clone->bytes(5 * kMiB, bytes.size()), bytes));
  EXPECT_TRUE(zero(clone->bytes(0, 16 * kPage)));
  EXPECT_TRUE(zero(clone->bytes(19 * kPage, 4 * kMiB - 19 * kPage)));
  EXPECT_EQ(clone->pieces(), ram.pieces());
}

// Pages of the kernel that nobody has touched are in its file only.
TEST(GuestRamSave, UntouchedPagesOfALoadedFileAreSaved) {
  GuestRam ram = make_ram({kMiB});
  const auto bytes = pattern(8 * kPage + 100);
  const UniqueFd kernel = file_of(bytes);
  ASSERT_TRUE(ram.load_file(kernel.get(), 0, bytes.size(), 16 * kPage));
  ASSERT_GT(ram.mapped_bytes(), 0U);
  ram.bytes(20 * kPage, 1)[0] = std::byte{0xee};
  const UniqueFd file = saved(ram);
  std::vector<std::uint8_t> read(bytes.size());
  ASSERT_EQ(pread(file.get(), read.data(), read.size(), 16 * kPage), static_cast<ssize_t>(read.size()));
  auto expected = bytes;
  expected[4 * kPage] = 0xee;
  EXPECT_EQ(read, expected);
}

TEST(GuestRamSave, AClonesWritesAreItsOwnAndItsHolesStayHoles) {
  const std::vector<std::uint64_t> nodes = {64 * kMiB};
  GuestRam ram = make_ram(nodes);
  const auto bytes = pattern(kPage);
  fill(ram.bytes(0, kPage), bytes);
  fill(ram.bytes(33 * kMiB, kPage), bytes);
  const UniqueFd file = saved(ram);
  const std::uint64_t before = blocks_of(file);
  auto clone = GuestRam::create_from(file.get(), nodes, RamPages::kNormal);
  ASSERT_TRUE(clone);
  // Two grains of 2 MiB.
  EXPECT_EQ(clone->mapped_bytes(), 4 * kMiB);
  clone->bytes(0, 1)[0] = std::byte{0x77};
  clone->bytes(50 * kMiB, 1)[0] = std::byte{0x77};
  EXPECT_TRUE(zero(clone->bytes(40 * kMiB, kMiB)));
  std::uint8_t in_file = 0;
  ASSERT_EQ(pread(file.get(), &in_file, 1, 0), 1);
  EXPECT_EQ(in_file, bytes[0]);
  EXPECT_EQ(blocks_of(file), before);

  // What the clone has not touched is saved from the file.
  const UniqueFd second = saved(*clone);
  EXPECT_EQ(blocks_of(second), 3 * kPage);
  EXPECT_EQ(blocks_of(file), before);
  auto grandchild = GuestRam::create_from(second.get(), nodes, RamPages::kNormal);
  ASSERT_TRUE(grandchild);
  EXPECT_EQ(grandchild->bytes(0, 1)[0], std::byte{0x77});
  EXPECT_EQ(grandchild->bytes(50 * kMiB, 1)[0], std::byte{0x77});
  EXPECT_TRUE(equal(grandchild->bytes(33 * kMiB, kPage), bytes));
}

TEST(GuestRamSave, AFileOfAnotherSizeIsRefused) {
  for (const std::uint64_t size : {kMiB - kPage, kMiB + kPage, std::uint64_t{0}}) {
    const UniqueFd file(memfd_create("ram", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file.get(), static_cast<off_t>(size)), 0);
    const std::vector<std::uint64_t> nodes = {kMiB};
    const auto clone = GuestRam::create_from(file.get(), nodes, RamPages::kNormal);
    ASSERT_FALSE(clone) << size;
    EXPECT_EQ(clone.error().code(), ErrorCode::kUsage);
  }
}

// Data that lie scattered do not become a mapping each.
TEST(GuestRamSave, ScatteredPagesAreMappedTogether) {
  const std::vector<std::uint64_t> nodes = {16 * kMiB};
  GuestRam ram = make_ram(nodes);
  for (std::uint64_t page = 0; page < 16 * kMiB / kPage; page += 2)
    ram.bytes(page * kPage, 1)[0] = std::byte{1};
  const UniqueFd file = saved(ram);
  EXPECT_EQ(blocks_of(file), 8 * kMiB);
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    return std::count(std::istreambuf_iterator<char>(maps), {}, '\n');
  };
  const auto before = mappings();
  auto clone = GuestRam::create_from(file.get(), nodes, RamPages::kNormal);
  ASSERT_TRUE(clone);
  EXPECT_LE(mappings() - before, 2);
  for (std::uint64_t page = 0; page < 16 * kMiB / kPage; ++page)
    ASSERT_EQ(clone->bytes(page * kPage, 1)[0], std::byte(page % 2 == 0 ? 1 : 0)) << page;
}

}  // namespace
}  // namespace ktstr::kvm::tiny
