#include "host/machine/kvm/boot_params.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include <fmt/core.h>

#include "common/units.h"
#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint64_t kPage = 4096;
// Types of e820 entries (arch/x86/include/asm/e820/types.h).
constexpr std::uint32_t kE820Ram = 1;
constexpr std::uint32_t kE820Reserved = 2;

void add_e820(boot_params& params, std::uint64_t from, std::uint64_t to, std::uint32_t type) {
  if (from >= to || params.e820_entries == E820_MAX_ENTRIES_ZEROPAGE) return;
  boot_e820_entry& entry = params.e820_table[params.e820_entries++];
  entry.addr = from;
  entry.size = to - from;
  entry.type = type;
}

void write_e820(boot_params& params, GuestRam& ram) {
  // Pieces of adjacent nodes make one entry: which node has what is for the SRAT to say.
  std::uint64_t low_end = 0;
  std::uint64_t high_end = 0;
  for (const RamPiece& piece : ram.pieces()) {
    std::uint64_t& end = piece.gpa < kHighRamGpa ? low_end : high_end;
    end = piece.gpa + piece.size;
  }
  add_e820(params, 0, kLowMemoryEnd, kE820Ram);
  add_e820(params, kLowMemoryEnd, kHighMemoryGpa, kE820Reserved);
  add_e820(params, kHighMemoryGpa, low_end, kE820Ram);
  add_e820(params, kHighRamGpa, high_end, kE820Ram);
}

// As high as it may be, out of the kernel's way.
Expected<std::uint64_t> place_initramfs(GuestRam& ram, const LoadedKernel& kernel, std::uint64_t size) {
  std::uint64_t end = 0;
  for (const RamPiece& piece : ram.pieces())
    if (piece.gpa < kHighRamGpa) end = piece.gpa + piece.size;
  end = std::min(end, std::uint64_t{kernel.header.initrd_addr_max} + 1);
  if (size <= end && (end - size) / kPage * kPage >= kernel.end) return (end - size) / kPage * kPage;
  return fail(
      ErrorCode::kUsage,
      fmt::format(
          "the initramfs of {} does not fit into the guest's memory behind the kernel, which ends at {}; "
          "give the guest more memory",
          format_size(size), format_size(kernel.end)));
}

Expected<void> write_command_line(GuestRam& ram, const LoadedKernel& kernel, std::string_view text) {
  // The room that guest_layout.h has for it, with its final zero.
  constexpr std::uint64_t kRoom = kLowMemoryEnd - kCommandLineGpa - 1;
  const std::uint64_t limit = std::min<std::uint64_t>(kernel.header.cmdline_size, kRoom);
  if (text.size() > limit) {
    return fail(ErrorCode::kUsage,
                fmt::format("the kernel command line has {} bytes, the kernel takes {}", text.size(), limit));
  }
  const auto to = ram.bytes(kCommandLineGpa, text.size() + 1);
  std::ranges::copy(std::as_bytes(std::span(text)), to.begin());
  to[text.size()] = std::byte{0};
  return {};
}

// Pieces of two nodes may meet inside of the initramfs.
Expected<void> load_across(GuestRam& ram, int file, std::uint64_t size, std::uint64_t gpa) {
  std::uint64_t done = 0;
  for (const RamPiece& piece : ram.pieces()) {
    if (gpa + done < piece.gpa || gpa + done >= piece.gpa + piece.size) continue;
    const std::uint64_t part = std::min(size - done, piece.gpa + piece.size - (gpa + done));
    if (auto loaded = ram.load_file(file, done, part, gpa + done); !loaded) return loaded;
    done += part;
    if (done == size) break;
  }
  return {};
}

}  // namespace

Expected<void> write_boot_params(GuestRam& ram, const LoadedKernel& kernel, const BootFiles& files) {
  boot_params params = {};
  params.hdr = kernel.header;
  if (auto written = write_command_line(ram, kernel, files.command_line); !written) return written;
  params.hdr.cmd_line_ptr = static_cast<std::uint32_t>(kCommandLineGpa);
  if (files.initramfs >= 0 && files.initramfs_size > 0) {
    const auto gpa = place_initramfs(ram, kernel, files.initramfs_size);
    if (!gpa) return std::unexpected(gpa.error());
    if (auto loaded = load_across(ram, files.initramfs, files.initramfs_size, *gpa); !loaded)
      return propagate(std::move(loaded.error()), "loading the initramfs");
    params.hdr.ramdisk_image = static_cast<std::uint32_t>(*gpa);
    params.hdr.ramdisk_size = static_cast<std::uint32_t>(files.initramfs_size);
  }
  params.acpi_rsdp_addr = kAcpiGpa;
  write_e820(params, ram);
  std::memcpy(ram.bytes(kBootParamsGpa, sizeof(params)).data(), &params, sizeof(params));
  return {};
}

void write_entry_tables(GuestRam& ram) {
  constexpr std::uint64_t kPresentWritable = 3;
  constexpr std::uint64_t kLargePage = 0x80;
  constexpr std::uint64_t kGigabytes = 4;
  constexpr std::uint64_t kEntries = 512;
  std::array<std::uint64_t, (2 + kGigabytes)* kEntries> tables = {};
  tables[0] = (kPageTablesGpa + kPage) | kPresentWritable;
  for (std::uint64_t i = 0; i < kGigabytes; ++i)
    tables[kEntries + i] = (kPageTablesGpa + (2 + i) * kPage) | kPresentWritable;
  for (std::uint64_t i = 0; i < kGigabytes * kEntries; ++i)
    tables[2 * kEntries + i] = i << 21 | kLargePage | kPresentWritable;
  std::memcpy(ram.bytes(kPageTablesGpa, sizeof(tables)).data(), tables.data(), sizeof(tables));

  // Flat segments: 64-bit code, and data (Intel SDM vol. 3A, 3.4.5).
  constexpr std::array<std::uint64_t, kGdtEntries> kGdt = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
  std::memcpy(ram.bytes(kGdtGpa, sizeof(kGdt)).data(), kGdt.data(), sizeof(kGdt));
}

}  // namespace ktstr::kvm
