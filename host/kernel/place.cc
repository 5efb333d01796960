#include "host/kernel/place.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

namespace ktstr {
namespace {

std::uint64_t low_bits(std::uint32_t count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

std::uint64_t sign_extend(std::uint64_t value, std::uint32_t bits) {
  if (bits == 0 || bits >= 64 || (value >> (bits - 1) & 1) == 0) return value;
  return value | ~low_bits(bits);
}

}  // namespace

std::string describe(const TypeInfo& type) {
  const std::string_view name = type.name;
  switch (type.kind) {
    case ValueKind::kStruct:
      return name.empty() ? "an anonymous struct" : fmt::format("struct {}", name);
    case ValueKind::kUnion:
      return name.empty() ? "an anonymous union" : fmt::format("union {}", name);
    case ValueKind::kEnum:
      return name.empty() ? "an enum" : fmt::format("enum {}", name);
    case ValueKind::kArray:
      return "an array";
    case ValueKind::kPointer:
      return "a pointer";
    case ValueKind::kBool:
      return "a bool";
    case ValueKind::kInteger:
      return name.empty() ? "an integer" : std::string(name);
    case ValueKind::kOther:
      break;
  }
  return name.empty() ? "of no type that can be read" : fmt::format("{}, which cannot be read", name);
}

bool is_value_size(std::uint64_t size) {
  return size == 1 || size == 2 || size == 4 || size == 8;
}

std::uint64_t stored_bytes(const Place& place) {
  if (place.bit_size == 0) return place.type.size;
  return (std::uint64_t{place.bit_offset} + place.bit_size + 7) / 8;
}

std::optional<std::uint64_t> extract_stored(const Place& place, std::span<const std::byte> stored) {
  switch (place.type.kind) {
    case ValueKind::kInteger:
    case ValueKind::kBool:
    case ValueKind::kEnum:
    case ValueKind::kPointer:
      break;
    default:
      return std::nullopt;
  }
  const std::uint64_t size = stored_bytes(place);
  if (size > stored.size()) return std::nullopt;
  std::uint64_t value = 0;
  if (place.bit_size == 0) {
    if (!is_value_size(size)) return std::nullopt;
    std::memcpy(&value, stored.data(), size);
    return place.type.is_signed ? sign_extend(value, static_cast<std::uint32_t>(size * 8)) : value;
  }
  if (place.bit_offset > 7 || place.bit_size > 64) return std::nullopt;
  std::memcpy(&value, stored.data(), std::min<std::uint64_t>(size, sizeof value));
  value >>= place.bit_offset;
  // A bit field of 58 to 64 bits may reach into a ninth byte.
  if (size > sizeof value) value |= std::to_integer<std::uint64_t>(stored[8]) << (64 - place.bit_offset);
  value &= low_bits(place.bit_size);
  return place.type.is_signed ? sign_extend(value, place.bit_size) : value;
}

std::optional<std::uint64_t> extract(const Place& place, std::span<const std::byte> object) {
  if (place.offset > object.size()) return std::nullopt;
  return extract_stored(place, object.subspan(place.offset));
}

}  // namespace ktstr
