#include "host/machine/kvm/kernel_loader.h"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include <fmt/core.h>

#include "common/units.h"
#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint64_t kSetupHeaderOffset = 0x1f1;
constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint32_t kHeaderMagic = 0x53726448;  // "HdrS"
constexpr std::uint64_t kEntry64 = 0x200;
constexpr std::uint16_t kProtocol = 0x20f;
constexpr std::uint8_t kUnknownLoader = 0xff;
// COMMAND_LINE_SIZE of arch/x86, which a payload does not tell.
constexpr std::uint32_t kCommandLineSize = 2048;
constexpr std::uint32_t kInitrdMax = 0x7fffffff;  // as arch/x86/boot/header.S has it
constexpr std::size_t kMaxSegments = 64;

Expected<void> read_exactly(int file, std::uint64_t offset, std::span<std::byte> out) {
  if (offset > INT64_MAX) return fail(ErrorCode::kUsage, "the kernel's headers name a place beyond any file");
  const ssize_t got = pread(file, out.data(), out.size(), static_cast<off_t>(offset));
  if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read the kernel");
  if (static_cast<std::size_t>(got) != out.size())
    return fail(ErrorCode::kUsage, "the kernel's file is shorter than its headers say");
  return {};
}

template <typename T>
Expected<void> read_value(int file, std::uint64_t offset, T& value) {
  return read_exactly(file, offset, std::as_writable_bytes(std::span(&value, 1)));
}

Expected<std::vector<Elf64_Phdr>> read_segments(int file, Elf64_Ehdr& header) {
  if (auto read = read_value(file, 0, header); !read) return std::unexpected(std::move(read.error()));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != EM_X86_64 || header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMaxSegments) {
    return fail(ErrorCode::kUsage, "the kernel is no x86-64 ELF that can be loaded");
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (auto read = read_exactly(file, header.e_phoff, std::as_writable_bytes(std::span(segments))); !read)
    return std::unexpected(std::move(read.error()));
  std::erase_if(segments,
                [](const Elf64_Phdr& segment) { return segment.p_type != PT_LOAD || segment.p_memsz == 0; });
  return segments;
}

// A header as a boot loader would find it, for a kernel that comes without.
setup_header made_up_header() {
  setup_header header = {};
  header.boot_flag = 0xaa55;
  header.header = kHeaderMagic;
  header.version = kProtocol;
  header.kernel_alignment = 0x200000;
  header.cmdline_size = kCommandLineSize - 1;
  header.initrd_addr_max = kInitrdMax;
  header.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G;
  return header;
}

Expected<LoadedKernel> load_elf(GuestRam& ram, int file) {
  Elf64_Ehdr header = {};
  const auto segments = read_segments(file, header);
  if (!segments) return std::unexpected(segments.error());
  LoadedKernel kernel{.entry = header.e_entry, .start = UINT64_MAX, .header = made_up_header()};
  for (const Elf64_Phdr& segment : *segments) {
    if (segment.p_filesz > segment.p_memsz || segment.p_paddr < kHighMemoryGpa ||
        ram.bytes(segment.p_paddr, segment.p_memsz).empty()) {
      return fail(ErrorCode::kUsage,
                  fmt::format("the kernel wants {} at {:#x}, where the guest has no RAM; give it more memory",
                              format_size(segment.p_memsz), segment.p_paddr));
    }
    if (auto loaded = ram.load_file(file, segment.p_offset, segment.p_filesz, segment.p_paddr); !loaded)
      return std::unexpected(std::move(loaded.error()));
    kernel.start = std::min(kernel.start, segment.p_paddr);
    kernel.end = std::max(kernel.end, segment.p_paddr + segment.p_memsz);
  }
  if (kernel.entry < kernel.start || kernel.entry >= kernel.end)
    return fail(ErrorCode::kUsage,
                fmt::format("the kernel's entry {:#x} is in none of its segments", kernel.entry));
  return kernel;
}

Expected<LoadedKernel> load_bzimage(GuestRam& ram, int file) {
  LoadedKernel kernel;
  if (auto read = read_value(file, kSetupHeaderOffset, kernel.header); !read)
    return std::unexpected(std::move(read.error()));
  const setup_header& header = kernel.header;
  if (header.header != kHeaderMagic || header.boot_flag != 0xaa55)
    return fail(ErrorCode::kUsage, "the kernel is no bzImage");
  if (header.version < 0x20c || (header.xloadflags & XLF_KERNEL_64) == 0)
    return fail(ErrorCode::kUsage, "the bzImage has no 64-bit entry (boot protocol 2.12)");
  const std::uint64_t setup =
      (std::uint64_t{header.setup_sects == 0 ? 4U : header.setup_sects} + 1) * kSectorSize;
  const off_t file_size = lseek(file, 0, SEEK_END);
  if (file_size < 0) return fail_errno(ErrorCode::kHost, "cannot find the size of the kernel's file");
  if (static_cast<std::uint64_t>(file_size) <= setup + kEntry64)
    return fail(ErrorCode::kUsage, "the bzImage is truncated");
  const std::uint64_t code = static_cast<std::uint64_t>(file_size) - setup;
  kernel.start = kHighMemoryGpa;
  kernel.entry = kernel.start + kEntry64;
  if (header.pref_address >= kLowRamEnd)
    return fail(ErrorCode::kUsage,
                fmt::format("the bzImage wants to be unpacked to {:#x}, where there is no RAM",
                            std::uint64_t{header.pref_address}));
  // The decompressor moves itself to the end of the place that it unpacks to, which is not below the
  // preferred address.
  kernel.end = std::max(kernel.start + code,
                        std::max(kernel.start, std::uint64_t{header.pref_address}) + header.init_size);
  if (ram.bytes(kernel.start, kernel.end - kernel.start).empty()) {
    return fail(ErrorCode::kUsage,
                fmt::format("the kernel needs {} of memory from 1 MiB on; give the guest more",
                            format_size(kernel.end - kernel.start)));
  }
  if (auto loaded = ram.load_file(file, setup, code, kernel.start); !loaded)
    return std::unexpected(std::move(loaded.error()));
  return kernel;
}

}  // namespace

Expected<LoadedKernel> load_kernel(GuestRam& ram, int file, bool is_elf) {
  auto kernel = is_elf ? load_elf(ram, file) : load_bzimage(ram, file);
  if (!kernel) return propagate(std::move(kernel.error()), "loading the kernel");
  kernel->header.type_of_loader = kUnknownLoader;
  kernel->header.loadflags |= LOADED_HIGH;
  return kernel;
}

}  // namespace ktstr::kvm
