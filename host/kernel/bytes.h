// Reading little-endian values and substrings out of untrusted bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace ktstr {

// Whether [offset, offset + size) lies inside `total` bytes; no overflow.
constexpr bool range_inside(std::uint64_t offset, std::uint64_t size, std::uint64_t total) {
  return offset <= total && size <= total - offset;
}

// The T at `offset` (host byte order, which is little-endian: the program is x86-64 only), or nullopt when it
// does not lie inside `bytes`. Any alignment.
template <typename T>
requires std::is_trivially_copyable_v<T> std::optional<T> load(std::span<const std::byte> bytes,
                                                               std::uint64_t offset) {
  if (!range_inside(offset, sizeof(T), bytes.size())) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// The bytes as text; refers to them.
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The zero-terminated string at `offset`, of at most `max_length` characters; nullopt when it begins outside
// or no zero is found within reach.
inline std::optional<std::string_view> load_string(std::span<const std::byte> bytes, std::uint64_t offset,
                                                   std::size_t max_length) {
  if (offset >= bytes.size()) return std::nullopt;
  const std::string_view rest = as_text(bytes.subspan(offset)).substr(0, max_length + 1);
  const std::size_t end = rest.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  return rest.substr(0, end);
}

}  // namespace ktstr
