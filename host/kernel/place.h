// Place: where a member lies in an object of the kernel, and what is read there.
//
// KernelTypes makes places of access paths (kernel_types.h); with a place, a value is taken out of a copy of
// the object without looking at any type again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace ktstr {

enum class ValueKind {
  kInteger,
  kBool,
  kEnum,     // of 1 to 8 bytes
  kPointer,  // TypeInfo::size is 8
  kStruct,
  kUnion,
  kArray,
  kOther,  // void, function, float, a forward declaration: cannot be read
};

// A type without its typedefs and qualifiers.
struct TypeInfo {
  std::uint32_t id = 0;  // BTF id
  ValueKind kind = ValueKind::kOther;
  std::uint64_t size = 0;  // bytes; 0 when it has none
  bool is_signed = false;  // integers and enums
  bool is_char = false;    // an integer of one byte that is named "char"
  std::string name;        // often empty
};

// "struct rq", "an array", "a pointer": for messages.
std::string describe(const TypeInfo& type);

// A member inside an object, however deep.
struct Place {
  std::uint64_t offset = 0;      // bytes from the beginning of the object; of a bit field its first byte's
  std::uint32_t bit_offset = 0;  // of a bit field: its lowest bit, counted from `offset`; below 8
  std::uint32_t bit_size = 0;    // of a bit field: 1 to 64; 0 for other members
  TypeInfo type;
  std::string path;  // from the object
};

// Whether numbers have that many bytes: 1, 2, 4 or 8.
bool is_value_size(std::uint64_t size);

// How many bytes from `offset` on the place occupies: the type's size, of a bit field those it has bits in.
std::uint64_t stored_bytes(const Place& place);

// The number that a place holds in a copy of its object: integers, enums, bools, pointers and bit fields,
// sign-extended when the type is signed. nullopt when the copy is too short or the place holds no number.
std::optional<std::uint64_t> extract(const Place& place, std::span<const std::byte> object);
// The same from the place's own stored_bytes().
std::optional<std::uint64_t> extract_stored(const Place& place, std::span<const std::byte> stored);

}  // namespace ktstr
