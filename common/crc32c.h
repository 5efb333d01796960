// CRC32C (Castagnoli): the checksum of frames.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ktstr {

// CRC32C of `bytes`: polynomial 0x1EDC6F41, bits reflected, register preset to ones and inverted at the end
// (RFC 3720, appendix B.4; "123456789" gives 0xE3069283). `crc` is the result for the bytes before these, 0
// to begin: crc32c(b, crc32c(a)) is the checksum of a followed by b. Uses the SSE4.2 instruction where the
// CPU has it.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc = 0);

// The two ways that crc32c chooses from; public so that tests can hold one against the other.
namespace crc32c_detail {

using Function = std::uint32_t (*)(std::span<const std::byte> bytes, std::uint32_t crc);

// Plain C++, eight table look-ups for eight bytes.
std::uint32_t table(std::span<const std::byte> bytes, std::uint32_t crc);
// The SSE4.2 flavour, or nullptr when this CPU has none.
Function hardware();

}  // namespace crc32c_detail
}  // namespace ktstr
