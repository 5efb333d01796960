#include "host/kernel/setup_header.h"

#include <algorithm>
#include <array>
#include <cctype>

#include <fmt/format.h>

#include "host/kernel/bytes.h"
#include "host/kernel/payload.h"

namespace ktstr {
namespace {

// Offsets from the beginning of the file; all from the table in boot.rst.
constexpr std::uint64_t kSetupSects = 0x1f1;
constexpr std::uint64_t kSyssize = 0x1f4;
constexpr std::uint64_t kBootFlag = 0x1fe;
constexpr std::uint64_t kMagic = 0x202;
constexpr std::uint64_t kVersion = 0x206;
constexpr std::uint64_t kKernelVersion = 0x20e;
constexpr std::uint64_t kLoadflags = 0x211;
constexpr std::uint64_t kKernelAlignment = 0x230;
constexpr std::uint64_t kXloadflags = 0x236;
constexpr std::uint64_t kCmdlineSize = 0x238;
constexpr std::uint64_t kPayloadOffset = 0x248;
constexpr std::uint64_t kPayloadLength = 0x24c;
constexpr std::uint64_t kPrefAddress = 0x258;
constexpr std::uint64_t kInitSize = 0x260;
constexpr std::uint64_t kHeaderEnd = 0x264;

constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint16_t kBootFlagValue = 0xaa55;
constexpr std::string_view kMagicValue = "HdrS";
constexpr std::uint8_t kLoadedHigh = 1;
constexpr std::uint16_t kXlfKernel64 = 1;
constexpr std::size_t kMaxVersionLength = 512;

struct Signature {
  std::uint64_t offset;
  std::string_view magic;
  const char* what;
};

using namespace std::string_view_literals;

// First match wins. The Image formats share one header layout: "MZ" (or a branch) at 0 and their own magic at
// 0x30/0x38 (Documentation/arch/arm64/booting.rst, .../riscv/boot-image-header.rst).
constexpr std::array kSignatures{
    Signature{4, "zimg"sv, "an EFI zboot kernel of another architecture"},
    Signature{0x38, "ARMd"sv, "an aarch64 kernel (Image)"},
    Signature{0x38, "RSC\x05"sv, "a RISC-V kernel (Image)"},
    Signature{0x30, "RISCV"sv, "a RISC-V kernel (Image)"},
    Signature{0x38, "\xcd\x23\x82\x81"sv, "a LoongArch kernel (Image)"},
    Signature{0x24, "\x18\x28\x6f\x01"sv, "a 32-bit ARM kernel (zImage)"},
    Signature{0, "\x27\x05\x19\x56"sv, "a U-Boot image"},
    Signature{0, "070701"sv, "a cpio archive (an initramfs?)"},
    Signature{0, "!<arch>\n"sv, "an ar archive (a .deb is unpacked with dpkg-deb -x)"},
    Signature{0, "\xed\xab\xee\xdb"sv, "an RPM package (unpack it first)"},
    Signature{0, "PK\x03\x04"sv, "a zip archive"},
    Signature{0, "MZ"sv, "an EFI or DOS program without a Linux boot header"},
};

bool is_text(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char raw) {
    const auto c = static_cast<unsigned char>(raw);
    return std::isprint(c) != 0 || std::isspace(c) != 0;
  });
}

Expected<> check_kind(std::span<const std::byte> image, std::uint16_t protocol, std::string_view what) {
  if (protocol < kMinProtocol) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}: boot protocol {}.{:02} is too old; 2.08 (Linux 2.6.26) or later is needed",
                            what, protocol >> 8, protocol & 0xff));
  }
  if ((*load<std::uint8_t>(image, kLoadflags) & kLoadedHigh) == 0) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}: is a zImage (loaded below 1 MiB); a bzImage is needed", what));
  }
  if (protocol >= 0x20c && (*load<std::uint16_t>(image, kXloadflags) & kXlfKernel64) == 0) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}: is a kernel for 32-bit x86; a 64-bit x86 kernel is needed", what));
  }
  return {};
}

Expected<> locate_payload(std::span<const std::byte> image, std::uint64_t file_size, SetupHeader& header,
                          std::string_view what) {
  // The header's promises are 32-bit numbers, so nothing here overflows.
  const std::uint64_t end = header.setup_size + header.code_size;
  if (end > file_size) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}: truncated bzImage: its header promises {} bytes, the file has {}", what, end,
                            file_size));
  }
  header.payload_offset = header.setup_size + *load<std::uint32_t>(image, kPayloadOffset);
  header.payload_size = *load<std::uint32_t>(image, kPayloadLength);
  if (!range_inside(header.payload_offset, header.payload_size, file_size)) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("{}: truncated bzImage: {} bytes of payload should lie at {}, the file has {} bytes",
                    what, header.payload_size, header.payload_offset, file_size));
  }
  if (header.payload_size == 0) {
    return fail(ErrorCode::kUsage, fmt::format("{}: the bzImage's header names no payload", what));
  }
  return {};
}

}  // namespace

bool looks_like_bzimage(std::span<const std::byte> image) {
  return load<std::uint16_t>(image, kBootFlag) == kBootFlagValue &&
         range_inside(kMagic, kMagicValue.size(), image.size()) &&
         as_text(image.subspan(kMagic, kMagicValue.size())) == kMagicValue;
}

Expected<SetupHeader> parse_setup_header(std::span<const std::byte> image, std::uint64_t file_size,
                                         std::string_view what) {
  if (!looks_like_bzimage(image)) return fail(ErrorCode::kUsage, fmt::format("{}: is no bzImage", what));
  if (image.size() < kHeaderEnd) {
    return fail(ErrorCode::kUsage, fmt::format("{}: truncated bzImage: it ends in the setup header", what));
  }
  SetupHeader header;
  header.protocol = *load<std::uint16_t>(image, kVersion);
  if (auto ok = check_kind(image, header.protocol, what); !ok) return std::unexpected(std::move(ok.error()));

  // Zero means four, for images older than the field.
  const std::uint8_t sectors = *load<std::uint8_t>(image, kSetupSects);
  header.setup_size = (std::uint64_t{sectors == 0 ? std::uint8_t{4} : sectors} + 1) * kSectorSize;
  header.code_size = std::uint64_t{*load<std::uint32_t>(image, kSyssize)} * 16;
  if (auto ok = locate_payload(image, file_size, header, what); !ok)
    return std::unexpected(std::move(ok.error()));

  header.kernel_alignment = *load<std::uint32_t>(image, kKernelAlignment);
  header.cmdline_size = *load<std::uint32_t>(image, kCmdlineSize);
  if (header.protocol >= 0x20a) {
    header.pref_address = *load<std::uint64_t>(image, kPrefAddress);
    header.init_size = *load<std::uint32_t>(image, kInitSize);
  }
  if (header.protocol >= 0x20c) header.xloadflags = *load<std::uint16_t>(image, kXloadflags);
  // The pointer counts from 0x200, and must stay inside the setup code; zero means that there is no version
  // string.
  const std::uint64_t version = *load<std::uint16_t>(image, kKernelVersion);
  if (version != 0 && version + 0x200 < header.setup_size) {
    const auto setup = image.first(std::min<std::uint64_t>(header.setup_size, image.size()));
    header.version = load_string(setup, version + 0x200, kMaxVersionLength).value_or("");
  }
  return header;
}

std::string describe_foreign_image(std::span<const std::byte> image) {
  for (const Signature& signature : kSignatures) {
    if (!range_inside(signature.offset, signature.magic.size(), image.size())) continue;
    if (as_text(image.subspan(signature.offset, signature.magic.size())) == signature.magic)
      return signature.what;
  }
  if (const auto compression = detect_compression(image); compression != Compression::kUnknown) {
    return fmt::format("a file compressed with {}", compression_name(compression));
  }
  if (!image.empty() && is_text(as_text(image.first(std::min<std::size_t>(image.size(), 512)))))
    return "a text file";
  return "";
}

}  // namespace ktstr
