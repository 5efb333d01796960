// The setup header of an x86 bzImage, as Documentation/arch/x86/boot.rst of the kernel source describes it.
//
// A bzImage is, in this order: the boot sector and real-mode setup code (`setup_sects` + 1 sectors of 512
// bytes), whose header at offset 0x1f1 tells a boot loader everything it must know; then the protected-mode
// code, which is the decompressor with the compressed kernel (the payload) inside. `payload_offset` counts
// from the beginning of the protected-mode code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/error.h"

namespace ktstr {

struct SetupHeader {
  std::uint16_t protocol = 0;    // boot protocol version, e.g. 0x20f for 2.15
  std::uint64_t setup_size = 0;  // bytes of boot sector and setup code; the protected-mode code begins here
  std::uint64_t code_size = 0;   // bytes of protected-mode code that the header promises
  std::uint64_t payload_offset = 0;  // of the compressed payload, bytes from the beginning of the file
  std::uint64_t payload_size = 0;    // bytes; inside the file
  std::uint64_t init_size = 0;  // bytes of memory the kernel needs to unpack and start itself; 0 before 2.10
  std::uint64_t pref_address = 0;      // physical load address the kernel prefers; 0 before 2.10
  std::uint32_t kernel_alignment = 0;  // bytes; 0 before 2.05
  std::uint32_t cmdline_size = 0;      // longest command line without its zero; 255 before 2.06
  std::uint16_t xloadflags = 0;        // XLF_*; 0 before 2.12
  std::string version;                 // "7.2.13+deb14-cloud-amd64 (builder@host) #1 SMP PREEMPT_DYNAMIC ..."
};

// The oldest boot protocol we take: 2.08 (Linux 2.6.26) introduced payload_offset and payload_length.
constexpr std::uint16_t kMinProtocol = 0x208;

// Whether `image` has the boot sector's 0xaa55 and the header's "HdrS".
bool looks_like_bzimage(std::span<const std::byte> image);

// Bytes from the beginning of a bzImage that parse_setup_header() wants to see: all setup code that there can
// be.
constexpr std::size_t kMaxSetupSize = std::size_t{256} * 512;

// Reads and checks the header of a bzImage of `file_size` bytes, whose first kMaxSetupSize bytes (or all, if
// it has fewer) are `head`. Error kUsage, beginning with `what`, for: no bzImage, protocol older than
// kMinProtocol, a kernel loaded below 1 MiB (zImage), a 32-bit kernel (where the header tells: protocol 2.12
// on), a file shorter than its header says, a payload outside the file.
Expected<SetupHeader> parse_setup_header(std::span<const std::byte> head, std::uint64_t file_size,
                                         std::string_view what);

// What `image` is when it is no x86 kernel but is recognised: "an aarch64 kernel (Image)", "a compressed file
// (gzip)", "a text file", ...; "" when nothing is.
std::string describe_foreign_image(std::span<const std::byte> image);

}  // namespace ktstr
