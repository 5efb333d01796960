#include "host/machine/kvm/boot_params.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/temp_file.h"

namespace ktstr::kvm::tiny {
namespace {

using E820 = std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>>;

LoadedKernel test_kernel() {
  LoadedKernel kernel{.entry = 16 * kMiB, .start = 16 * kMiB, .end = 24 * kMiB};
  kernel.header.cmdline_size = 2047;
  kernel.header.initrd_addr_max = 0x7fffffff;
  kernel.header.version = 0x20f;
  return kernel;
}

struct Written {
  explicit Written(const std::vector<std::uint64_t>& nodes)
      : ram(GuestRam::create(nodes, RamPages::kNormal).value()) {}
  boot_params params() {
    boot_params read = {};
    std::memcpy(&read, ram.bytes(kBootParamsGpa, sizeof(read)).data(), sizeof(read));
    return read;
  }
  E820 e820() {
    const boot_params read = params();
    E820 entries;
    for (int i = 0; i < read.e820_entries; ++i) {
      const boot_e820_entry& entry = read.e820_table[i];
      entries.emplace_back(std::uint64_t{entry.addr}, std::uint64_t{entry.size}, std::uint32_t{entry.type});
    }
    return entries;
  }
  std::string text(std::uint64_t gpa, std::size_t size) {
    const auto bytes = ram.bytes(gpa, size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  GuestRam ram;
};

TEST(BootParams, MemoryMapBelowTheHole) {
  Written guest({64 * kMiB, 64 * kMiB});
  ASSERT_TRUE(write_boot_params(guest.ram, test_kernel(), {}));
  EXPECT_EQ(guest.e820(), (E820{{0, 0xa0000, 1}, {0xa0000, 0x60000, 2}, {kMiB, 127 * kMiB, 1}}));
}

TEST(BootParams, MemoryMapAroundTheHole) {
  Written guest({2 * kGiB, 3 * kGiB});
  ASSERT_TRUE(write_boot_params(guest.ram, test_kernel(), {}));
  EXPECT_EQ(
      guest.e820(),
      (E820{{0, 0xa0000, 1}, {0xa0000, 0x60000, 2}, {kMiB, 3 * kGiB - kMiB, 1}, {4 * kGiB, 2 * kGiB, 1}}));
}

TEST(BootParams, ExactlyUpToTheHole) {
  Written guest({3 * kGiB});
  ASSERT_TRUE(write_boot_params(guest.ram, test_kernel(), {}));
  EXPECT_EQ(guest.e820(), (E820{{0, 0xa0000, 1}, {0xa0000, 0x60000, 2}, {kMiB, 3 * kGiB - kMiB, 1}}));
}

TEST(BootParams, HeaderTablesAndCommandLine) {
  Written guest({64 * kMiB});
  ASSERT_TRUE(write_boot_params(guest.ram, test_kernel(), {.command_line = "console=ttyS0 x=1"}));
  const boot_params params = guest.params();
  EXPECT_EQ(params.hdr.version, 0x20f);
  EXPECT_EQ(params.hdr.cmd_line_ptr, kCommandLineGpa);
  EXPECT_EQ(guest.text(kCommandLineGpa, 18), std::string("console=ttyS0 x=1\0", 18));
  EXPECT_EQ(params.acpi_rsdp_addr, kAcpiGpa);
  EXPECT_EQ(params.hdr.ramdisk_image, 0U);
  EXPECT_EQ(params.hdr.ramdisk_size, 0U);
}

TEST(BootParams, CommandLineUpToTheKernelsLimit) {
  Written guest({64 * kMiB});
  const std::string longest(2047, 'x');
  ASSERT_TRUE(write_boot_params(guest.ram, test_kernel(), {.command_line = longest}));
  EXPECT_EQ(guest.text(kCommandLineGpa, 2048), longest + '\0');
  const auto written = write_boot_params(guest.ram, test_kernel(), {.command_line = longest + "y"});
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code(), ErrorCode::kUsage);
  EXPECT_EQ(written.error().message(), "the kernel command line has 2048 bytes, the kernel takes 2047");
}

// A kernel that takes any length does not get it written over what lies behind.
TEST(BootParams, CommandLineUpToTheRoomThereIs) {
  Written guest({64 * kMiB});
  LoadedKernel kernel = test_kernel();
  kernel.header.cmdline_size = 0xffffffff;
  const std::string longest(0xa0000 - 0x20000 - 1, 'x');
  ASSERT_TRUE(write_boot_params(guest.ram, kernel, {.command_line = longest}));
  EXPECT_EQ(guest.text(0xa0000 - 2, 3), std::string("x\0\0", 3));
  EXPECT_FALSE(write_boot_params(guest.ram, kernel, {.command_line = longest + "y"}));
  EXPECT_FALSE(write_boot_params(guest.ram, kernel, {.command_line = std::string(70 * kMiB, 'x')}));
}

Expected<void> write_initramfs(Written& guest, const LoadedKernel& kernel,
                               const std::vector<std::uint8_t>& bytes) {
  const UniqueFd file = file_of(bytes);
  return write_boot_params(guest.ram, kernel,
                           {.command_line = "", .initramfs = file.get(), .initramfs_size = bytes.size()});
}

TEST(BootParams, InitramfsAtTheEndOfRam) {
  Written guest({64 * kMiB});
  const auto bytes = pattern(3 * 4096 + 77);
  ASSERT_TRUE(write_initramfs(guest, test_kernel(), bytes));
  const boot_params params = guest.params();
  EXPECT_EQ(params.hdr.ramdisk_image, 64 * kMiB - 4 * 4096);
  EXPECT_EQ(params.hdr.ramdisk_size, bytes.size());
  EXPECT_TRUE(std::ranges::equal(guest.ram.bytes(params.hdr.ramdisk_image, bytes.size()),
                                 std::as_bytes(std::span(bytes))));
}

TEST(BootParams, InitramfsOverTheBorderOfTwoNodes) {
  Written guest({32 * kMiB, kMiB});
  const auto bytes = pattern(2 * kMiB);
  ASSERT_TRUE(write_initramfs(guest, test_kernel(), bytes));
  const boot_params params = guest.params();
  EXPECT_EQ(params.hdr.ramdisk_image, 31 * kMiB);
  EXPECT_TRUE(
      std::ranges::equal(guest.ram.bytes(31 * kMiB, kMiB), std::as_bytes(std::span(bytes)).first(kMiB)));
  EXPECT_TRUE(
      std::ranges::equal(guest.ram.bytes(32 * kMiB, kMiB), std::as_bytes(std::span(bytes)).last(kMiB)));
}

TEST(BootParams, InitramfsNotAboveWhatTheKernelTakes) {
  Written guest({64 * kMiB});
  LoadedKernel kernel = test_kernel();
  kernel.header.initrd_addr_max = 40 * kMiB - 1;
  ASSERT_TRUE(write_initramfs(guest, kernel, pattern(4096)));
  EXPECT_EQ(guest.params().hdr.ramdisk_image, 40 * kMiB - 4096);
}

TEST(BootParams, InitramfsBelowTheHole) {
  Written guest({5 * kGiB});
  LoadedKernel kernel = test_kernel();
  kernel.header.initrd_addr_max = 0xffffffff;
  ASSERT_TRUE(write_initramfs(guest, kernel, pattern(4096)));
  EXPECT_EQ(guest.params().hdr.ramdisk_image, 3 * kGiB - 4096);
}

TEST(BootParams, InitramfsThatDoesNotFit) {
  Written guest({32 * kMiB});
  EXPECT_TRUE(write_initramfs(guest, test_kernel(), pattern(8 * kMiB)));
  const auto refused = [&guest](const LoadedKernel& kernel, std::uint64_t size) {
    const auto written =
        write_boot_params(guest.ram, kernel, {.command_line = "", .initramfs = 0, .initramfs_size = size});
    return !written && written.error().code() == ErrorCode::kUsage &&
           written.error().message().find("behind the kernel, which ends at 24") != std::string::npos;
  };
  EXPECT_TRUE(refused(test_kernel(), 8 * kMiB + 1));
  EXPECT_TRUE(refused(test_kernel(), kGiB));
  EXPECT_TRUE(refused(test_kernel(), ~std::uint64_t{0}));
  LoadedKernel kernel = test_kernel();
  kernel.header.initrd_addr_max = 0;
  EXPECT_TRUE(refused(kernel, 4096));
}

TEST(BootParams, AnInitramfsFileThatIsShorterThanItsSize) {
  Written guest({64 * kMiB});
  const UniqueFd file = file_of(pattern(4096));
  const auto written = write_boot_params(
      guest.ram, test_kernel(), {.command_line = "", .initramfs = file.get(), .initramfs_size = 8192});
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code(), ErrorCode::kUsage);
  EXPECT_NE(written.error().to_string().find("loading the initramfs"), std::string::npos);
}

// As the processor walks them.
TEST(EntryTables, FourGigabytesOneToOne) {
  Written guest({64 * kMiB});
  write_entry_tables(guest.ram);
  const auto number = [&guest](std::uint64_t gpa) {
    std::uint64_t value = 0;
    std::memcpy(&value, guest.ram.bytes(gpa, 8).data(), 8);
    return value;
  };
  EXPECT_EQ(number(0x9000), 0xa003U);
  for (std::uint64_t i = 1; i < 512; ++i) ASSERT_EQ(number(0x9000 + 8 * i), 0U);
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(number(0xa000 + 8 * i), 0xb003 + i * 0x1000);
  for (std::uint64_t i = 4; i < 512; ++i) ASSERT_EQ(number(0xa000 + 8 * i), 0U);
  for (std::uint64_t i = 0; i < 4 * 512; ++i) ASSERT_EQ(number(0xb000 + 8 * i), i * 0x200000 + 0x83);
  EXPECT_EQ(number(0xf000), 0U);
  // No segment, no segment, 64-bit code, data.
  EXPECT_EQ(number(0x500), 0U);
  EXPECT_EQ(number(0x508), 0U);
  EXPECT_EQ(number(0x510), 0x00af9b000000ffffU);
  EXPECT_EQ(number(0x518), 0x00cf93000000ffffU);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
