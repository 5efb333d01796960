// Two implementations. The table one is "slicing by 8": table k holds the CRC of a byte that is followed by k
// zero bytes. A CRC is linear, so the CRC of eight bytes is the exclusive-or of eight independent look-ups;
// the CPU can overlap them, where the classic loop has to wait for one look-up a byte. The hardware one needs
// no tables: `crc32` of SSE4.2 computes exactly this polynomial (Intel SDM volume 2, CRC32).
#include "common/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace ktstr {
namespace crc32c_detail {
namespace {

// 0x1EDC6F41 with its bits reversed.
constexpr std::uint32_t kPolynomial = 0x82f63b78;
constexpr std::size_t kSlices = 8;

using Tables = std::array<std::array<std::uint32_t, 256>, kSlices>;

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (std::size_t slice = 1; slice < kSlices; ++slice) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t shorter = tables[slice - 1][byte];
      tables[slice][byte] = (shorter >> 8) ^ tables[0][shorter & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

// Independent of the machine's byte order; compilers make one load of it.
std::uint32_t load_le32(const std::byte* bytes) {
  return std::to_integer<std::uint32_t>(bytes[0]) | std::to_integer<std::uint32_t>(bytes[1]) << 8 |
         std::to_integer<std::uint32_t>(bytes[2]) << 16 | std::to_integer<std::uint32_t>(bytes[3]) << 24;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t sse42(std::span<const std::byte> bytes, std::uint32_t crc) {
  std::uint64_t state = ~crc;
  while (bytes.size() >= sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof word);
    state = _mm_crc32_u64(state, word);
    bytes = bytes.subspan(sizeof word);
  }
  auto narrow = static_cast<std::uint32_t>(state);
  for (const std::byte byte : bytes) narrow = _mm_crc32_u8(narrow, std::to_integer<std::uint8_t>(byte));
  return ~narrow;
}
#endif

}  // namespace

std::uint32_t table(std::span<const std::byte> bytes, std::uint32_t crc) {
  std::uint32_t state = ~crc;
  while (bytes.size() >= kSlices) {
    const std::uint32_t low = state ^ load_le32(bytes.data());
    const std::uint32_t high = load_le32(bytes.data() + 4);
    state = kTables[7][low & 0xff] ^ kTables[6][(low >> 8) & 0xff] ^ kTables[5][(low >> 16) & 0xff] ^
            kTables[4][low >> 24] ^ kTables[3][high & 0xff] ^ kTables[2][(high >> 8) & 0xff] ^
            kTables[1][(high >> 16) & 0xff] ^ kTables[0][high >> 24];
    bytes = bytes.subspan(kSlices);
  }
  for (const std::byte byte : bytes) {
    state = (state >> 8) ^ kTables[0][(state ^ std::to_integer<std::uint32_t>(byte)) & 0xff];
  }
  return ~state;
}

Function hardware() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2") != 0) return sse42;
#endif
  return nullptr;
}

}  // namespace crc32c_detail

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc) {
  static const crc32c_detail::Function chosen =
      crc32c_detail::hardware() != nullptr ? crc32c_detail::hardware() : crc32c_detail::table;
  return chosen(bytes, crc);
}

}  // namespace ktstr
