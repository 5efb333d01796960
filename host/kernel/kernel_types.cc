#include "host/kernel/kernel_types.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <bpf/btf.h>
#include <fmt/format.h>

// A reminder of what BTF looks like (Documentation/bpf/btf.rst). Types are numbered from 1, in the order of
// the section; 0 is void. Each refers to others by number, forward and backward, so a damaged section can
// make circles of them; each has the offset of its name in a table of strings. A member of a struct has its
// offset in bits, in one of two forms: if the struct's kind_flag is set, the upper 8 of its 32 bits are the
// width of a bit field (0: it is none); if not, all 32 are the offset, and a bit field is one by its type, an
// integer that says of itself how many bits of its bytes it uses and from which on.
namespace ktstr {
namespace {

// Longest list of ambiguous names that is kept.
constexpr std::size_t kMaxAmbiguous = 256;

// The name at an offset of the table of strings; nullopt when it lies outside or is too long.
std::optional<std::string_view> name_at(const ::btf* btf, std::uint32_t offset) {
  const char* text = btf__name_by_offset(btf, offset);  // checks the offset; the table ends with a zero
  if (text == nullptr) return std::nullopt;
  const std::size_t length = strnlen(text, KernelTypes::kMaxName + 1);
  if (length > KernelTypes::kMaxName) return std::nullopt;
  return std::string_view(text, length);
}

std::string name_of(const ::btf* btf, const btf_type* type) {
  return std::string(name_at(btf, type->name_off).value_or(""));
}

bool is_composite(const btf_type* type) {
  return btf_is_struct(type) || btf_is_union(type);
}

bool is_reference(const btf_type* type) {
  switch (btf_kind(type)) {
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_TYPE_TAG:
      return true;
    default:
      return false;
  }
}

// The type behind typedefs and qualifiers; {id, nullptr} when there is none within reach.
std::pair<std::uint32_t, const btf_type*> peel(const ::btf* btf, std::uint32_t id) {
  for (std::size_t step = 0; step <= KernelTypes::kMaxDepth; ++step) {
    const btf_type* type = btf__type_by_id(btf, id);
    if (type == nullptr || !is_reference(type)) return {id, type};
    id = type->type;
  }
  return {id, nullptr};
}

// Bytes of an array's elements all together; nullopt when that is too much or the element has no size that
// can be told.
std::optional<std::uint64_t> array_size(const ::btf* btf, const btf_type* type) {
  std::uint64_t count = 1;
  for (std::size_t level = 0; level <= KernelTypes::kMaxDepth; ++level) {
    const struct btf_array* array = ::btf_array(type);
    count *= array->nelems;  // below 2^64: both factors are at most 2^32
    if (count > KernelTypes::kMaxTypeSize) return std::nullopt;
    type = peel(btf, array->type).second;
    if (type == nullptr) return std::nullopt;
    if (btf_is_array(type)) continue;
    std::uint64_t element = 0;
    switch (btf_kind(type)) {
      case BTF_KIND_INT:
      case BTF_KIND_ENUM:
      case BTF_KIND_ENUM64:
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION:
      case BTF_KIND_FLOAT:
        element = type->size;
        break;
      case BTF_KIND_PTR:
        element = sizeof(std::uint64_t);
        break;
      default:
        return std::nullopt;
    }
    const std::uint64_t size = count * element;
    if (size > KernelTypes::kMaxTypeSize) return std::nullopt;
    return size;
  }
  return std::nullopt;
}

TypeInfo describe_type(const ::btf* btf, std::uint32_t id) {
  const auto [peeled, type] = peel(btf, id);
  TypeInfo info;
  info.id = peeled;
  if (type == nullptr) return info;
  info.name = name_of(btf, type);
  switch (btf_kind(type)) {
    case BTF_KIND_INT:
      info.size = type->size;
      info.is_signed = (btf_int_encoding(type) & BTF_INT_SIGNED) != 0;
      info.is_char = type->size == 1 && info.name == "char";
      // A bool of more than a byte or an integer of 16 bytes can be named, but extract() does not read it.
      info.kind = (btf_int_encoding(type) & BTF_INT_BOOL) != 0 ? ValueKind::kBool : ValueKind::kInteger;
      break;
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
      info.size = type->size;
      info.is_signed = btf_kflag(type);
      if (is_value_size(type->size)) info.kind = ValueKind::kEnum;
      break;
    case BTF_KIND_PTR:
      info.size = sizeof(std::uint64_t);
      info.kind = ValueKind::kPointer;
      break;
    case BTF_KIND_STRUCT:
      info.size = type->size;
      info.kind = ValueKind::kStruct;
      break;
    case BTF_KIND_UNION:
      info.size = type->size;
      info.kind = ValueKind::kUnion;
      break;
    case BTF_KIND_ARRAY:
      if (const auto size = array_size(btf, type)) {
        info.size = *size;
        info.kind = ValueKind::kArray;
      }
      break;
    case BTF_KIND_FLOAT:
      info.size = type->size;
      break;
    default:
      break;
  }
  return info;
}

// A member as BTF has it, in bits.
struct Member {
  std::string_view name;
  std::uint32_t type = 0;
  std::uint64_t offset = 0;  // from the outermost struct
  std::uint64_t room = 0;    // from there to the end of the struct that it stands in
  std::uint32_t width = 0;   // of a bit field in the new form; else 0
};

// Calls visit(Member) for the named members of a struct or union, those of anonymous ones in their place,
// until it returns true; returns whether it did. `budget` bounds how many are looked at.
template <typename Visit>
bool visit_members(const ::btf* btf, const btf_type* composite, std::uint64_t base, std::size_t depth,
                   std::uint32_t& budget, Visit& visit) {
  if (depth > KernelTypes::kMaxDepth) return false;
  const btf_member* members = btf_members(composite);
  const std::uint64_t size = std::uint64_t{composite->size} * 8;
  for (std::uint32_t i = 0; i < btf_vlen(composite); ++i) {
    if (budget == 0) return false;
    --budget;
    const std::uint64_t offset = btf_member_bit_offset(composite, i);
    const auto name = name_at(btf, members[i].name_off);
    if (!name || offset > size) continue;
    if (!name->empty()) {
      const Member member{.name = *name,
                          .type = members[i].type,
                          .offset = base + offset,
                          .room = size - offset,
                          .width = btf_member_bitfield_size(composite, i)};
      if (visit(member)) return true;
      continue;
    }
    const btf_type* inner = peel(btf, members[i].type).second;
    if (inner == nullptr || !is_composite(inner)) continue;
    if (std::uint64_t{inner->size} * 8 > size - offset) continue;
    if (visit_members(btf, inner, base + offset, depth + 1, budget, visit)) return true;
  }
  return false;
}

// What a member is and where; the error says what is wrong with it.
std::expected<Place, std::string> to_place(const ::btf* btf, const Member& member) {
  Place place;
  place.type = describe_type(btf, member.type);
  place.path = member.name;
  std::uint64_t offset = member.offset;
  std::uint64_t width = member.width;
  const bool number = place.type.kind == ValueKind::kInteger || place.type.kind == ValueKind::kBool ||
                      place.type.kind == ValueKind::kEnum;
  std::uint64_t shift = 0;
  if (width == 0) {
    if (const btf_type* type = btf__type_by_id(btf, place.type.id); type != nullptr && btf_is_int(type)) {
      shift = btf_int_offset(type);
      const std::uint64_t bits = btf_int_bits(type);
      // btf_int_bits has 8 bits: of a 256-bit integer it says 0.
      if (shift != 0 || (offset + shift) % 8 != 0 || (bits != 0 && bits < place.type.size * 8)) width = bits;
      if (shift != 0 && bits == 0) return std::unexpected(fmt::format("member {} is damaged", member.name));
    }
  }
  if (width == 0) {
    if (offset % 8 != 0)
      return std::unexpected(fmt::format("member {} does not begin at a byte", member.name));
    if (place.type.size > member.room / 8)
      return std::unexpected(fmt::format("member {} lies outside of its struct", member.name));
    place.offset = offset / 8;
    return place;
  }
  if (!number || width > 64 || width > place.type.size * 8)
    return std::unexpected(
        fmt::format("member {} is a bit field of an impossible type or width", member.name));
  if (shift + width > member.room)
    return std::unexpected(fmt::format("member {} lies outside of its struct", member.name));
  offset += shift;
  place.offset = offset / 8;
  place.bit_offset = static_cast<std::uint32_t>(offset % 8);
  place.bit_size = static_cast<std::uint32_t>(width);
  return place;
}

// Takes a decimal number of at most 32 bits off the front of `text`.
std::optional<std::uint64_t> take_index(std::string_view& text) {
  std::uint64_t index = 0;
  std::size_t length = 0;
  while (length < text.size() && text[length] >= '0' && text[length] <= '9') {
    index = index * 10 + static_cast<std::uint64_t>(text[length] - '0');
    if (index > UINT32_MAX) return std::nullopt;
    ++length;
  }
  if (length == 0) return std::nullopt;
  text.remove_prefix(length);
  return index;
}

}  // namespace

// What a name is looked up as; C has one space of names for tags and another for functions and variables.
enum class KernelTypes::NameClass : std::uint32_t { kNone, kComposite, kEnum, kFunction, kVariable };

namespace {

// The number of the NameClass that the type belongs to.
std::uint32_t name_class(const btf_type* type) {
  switch (btf_kind(type)) {
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
      return 1;
    case BTF_KIND_ENUM:
      return btf_vlen(type) == 0 ? 0 : 2;  // one without constants is a forward declaration
    case BTF_KIND_ENUM64:
      return 2;
    case BTF_KIND_FUNC:
      return 3;
    case BTF_KIND_VAR:
      return 4;
    default:
      return 0;
  }
}

// FNV-1a, with the class mixed in.
std::uint32_t hash_name(std::uint32_t name_class, std::string_view name) {
  std::uint32_t hash = 2166136261u ^ name_class;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash ^ hash >> 15;
}

}  // namespace

KernelTypes::KernelTypes(const Btf& btf) : btf_(btf) {
  const ::btf* raw = btf_.get();
  const std::uint32_t count = btf__type_cnt(raw);
  // 0 for what has no name to be found by.
  std::vector<std::uint32_t> hashes(count, 0);
  std::vector<bool> named(count, false);
  std::size_t found = 0;
  for (std::uint32_t id = 1; id < count; ++id) {
    const btf_type* type = btf__type_by_id(raw, id);
    const std::uint32_t kind = name_class(type);
    if (kind == 0) continue;
    if (btf_is_any_enum(type)) enums_.push_back(id);
    if (btf_is_enum64(type)) has_enum64_ = true;
    const auto name = name_at(raw, type->name_off);
    if (!name || name->empty()) continue;
    hashes[id] = hash_name(kind, *name);
    named[id] = true;
    ++found;
  }
  const std::size_t slots = std::bit_ceil(found + 1);
  const auto mask = static_cast<std::uint32_t>(slots - 1);
  buckets_.assign(slots + 1, 0);
  ids_.resize(found);
  for (std::uint32_t id = 1; id < count; ++id) {
    if (named[id]) ++buckets_[(hashes[id] & mask) + 1];
  }
  for (std::size_t slot = 0; slot < slots; ++slot) buckets_[slot + 1] += buckets_[slot];
  // Fills each bucket from its end, so that afterwards the begins are right again and ids ascend.
  std::vector<std::uint32_t> next(buckets_.begin() + 1, buckets_.end());
  for (std::uint32_t id = count; id-- > 1;) {
    if (named[id]) ids_[--next[hashes[id] & mask]] = id;
  }
  enums_.shrink_to_fit();
}

std::vector<std::uint32_t> KernelTypes::find(NameClass wanted, std::string_view name) const {
  std::vector<std::uint32_t> found;
  if (name.empty() || name.size() > kMaxName) return found;
  const auto kind = static_cast<std::uint32_t>(wanted);
  const std::size_t slot = hash_name(kind, name) & (buckets_.size() - 2);
  for (std::uint32_t i = buckets_[slot]; i < buckets_[slot + 1]; ++i) {
    const btf_type* type = btf__type_by_id(btf_.get(), ids_[i]);
    if (name_class(type) == kind && name_at(btf_.get(), type->name_off) == name) found.push_back(ids_[i]);
  }
  return found;
}

std::optional<std::uint32_t> KernelTypes::find_first(NameClass wanted, std::string_view name) const {
  const auto found = find(wanted, name);
  if (found.empty()) return std::nullopt;
  if (found.size() > 1) note_ambiguous(name);
  return found.front();
}

void KernelTypes::note_ambiguous(std::string_view name) const {
  if (ambiguous_.size() >= kMaxAmbiguous || std::ranges::find(ambiguous_, name) != ambiguous_.end()) return;
  ambiguous_.emplace_back(name);
}

std::optional<TypeInfo> KernelTypes::find_struct(std::string_view name) const {
  const auto found = find(NameClass::kComposite, name);
  if (found.empty()) return std::nullopt;
  if (found.size() > 1) note_ambiguous(name);
  std::uint32_t best = found.front();
  for (const std::uint32_t id : found) {
    if (btf__type_by_id(btf_.get(), id)->size > btf__type_by_id(btf_.get(), best)->size) best = id;
  }
  return type(best);
}

TypeInfo KernelTypes::type(std::uint32_t id) const {
  return describe_type(btf_.get(), id);
}

std::expected<Place, std::string> KernelTypes::place(std::string_view struct_name,
                                                     std::string_view path) const {
  const auto found = find_struct(struct_name);
  if (!found) return std::unexpected(fmt::format("the kernel has no struct {}", struct_name));
  return place(*found, path);
}

std::expected<Place, std::string> KernelTypes::place(const TypeInfo& type, std::string_view path) const {
  const ::btf* raw = btf_.get();
  Place here;
  here.type = type;
  here.path = path;
  std::string_view rest = path;
  std::uint32_t budget = kMaxMembers;
  for (std::size_t step = 0; step < kMaxDepth; ++step) {
    const std::string_view done = path.substr(0, path.size() - rest.size());
    if (rest.starts_with('[')) {
      rest.remove_prefix(1);
      const auto index = take_index(rest);
      if (!index || !rest.starts_with(']'))
        return std::unexpected(
            fmt::format("access path {}: an index like [3] was expected after {}", path, done));
      rest.remove_prefix(1);
      const auto elements = array(here.type);
      if (!elements)
        return std::unexpected(
            fmt::format("{} is {}, not an array", done.empty() ? "this" : done, describe(here.type)));
      if (elements->count != 0 && *index >= elements->count)
        return std::unexpected(fmt::format("{} has {} elements, so no [{}]",
                                           done.empty() ? "the array" : done, elements->count, *index));
      // Sizes are at most 2^32 and so is the index: no product wraps before it is compared.
      const std::uint64_t distance = elements->element.size == 0 ? 0 : *index;
      if (distance > kMaxOffset / std::max<std::uint64_t>(elements->element.size, 1) ||
          here.offset + distance * elements->element.size > kMaxOffset)
        return std::unexpected(fmt::format("{}[{}] is too far away", done, *index));
      here.offset += distance * elements->element.size;
      here.type = elements->element;
    } else {
      if (!done.empty()) {
        if (!rest.starts_with('.'))
          return std::unexpected(fmt::format("access path {}: '.' or '[' was expected after {}", path, done));
        rest.remove_prefix(1);
      }
      const std::string_view name = rest.substr(0, rest.find_first_of(".["));
      rest.remove_prefix(name.size());
      if (name.empty()) return std::unexpected(fmt::format("access path '{}' lacks a name", path));
      const btf_type* composite = btf__type_by_id(raw, here.type.id);
      if (composite == nullptr || !is_composite(composite))
        return std::unexpected(
            fmt::format("{} is {}, not a struct", done.empty() ? "this" : done, describe(here.type)));
      std::optional<Member> found;
      auto matches = [&](const Member& member) {
        if (member.name != name) return false;
        found = member;
        return true;
      };
      visit_members(raw, composite, 0, 0, budget, matches);
      if (!found) {
        // An anonymous struct is told by where it stands.
        const bool anonymous = here.type.name.empty() && !done.empty();
        return std::unexpected(
            fmt::format("{} has no member {}", anonymous ? done : describe(here.type), name));
      }
      auto next = to_place(raw, *found);
      if (!next) return std::unexpected(fmt::format("{}: {}", describe(here.type), next.error()));
      here.offset += next->offset;  // 32 steps of at most 2^40 do not wrap
      here.bit_offset = next->bit_offset;
      here.bit_size = next->bit_size;
      here.type = std::move(next->type);
      if (here.offset > kMaxOffset) return std::unexpected(fmt::format("{} is too far away", path));
    }
    if (rest.empty()) return here;
    if (here.bit_size != 0)
      return std::unexpected(fmt::format("{} is a bit field", path.substr(0, path.size() - rest.size())));
  }
  return std::unexpected(fmt::format("the access path is deeper than {} steps", kMaxDepth));
}

std::vector<Place> KernelTypes::members(const TypeInfo& type) const {
  std::vector<Place> places;
  const btf_type* composite = btf__type_by_id(btf_.get(), type.id);
  if (composite == nullptr || !is_composite(composite)) return places;
  std::uint32_t budget = kMaxMembers;
  auto add = [&](const Member& member) {
    if (auto place = to_place(btf_.get(), member)) places.push_back(std::move(*place));
    return false;
  };
  visit_members(btf_.get(), composite, 0, 0, budget, add);
  return places;
}

TypeInfo KernelTypes::pointee(const TypeInfo& pointer) const {
  const btf_type* raw = btf__type_by_id(btf_.get(), pointer.id);
  if (raw == nullptr || !btf_is_ptr(raw)) return {};
  return type(raw->type);
}

std::optional<KernelTypes::Array> KernelTypes::array(const TypeInfo& type) const {
  const btf_type* raw = btf__type_by_id(btf_.get(), type.id);
  if (type.kind != ValueKind::kArray || raw == nullptr || !btf_is_array(raw)) return std::nullopt;
  return Array{.element = this->type(::btf_array(raw)->type), .count = ::btf_array(raw)->nelems};
}

std::vector<Enumerator> KernelTypes::enumerators(std::string_view enum_name) const {
  const auto id = find_first(NameClass::kEnum, enum_name);
  if (!id) return {};
  return enumerators(type(*id));
}

namespace {

std::uint64_t enum_value(const btf_type* type, std::uint32_t index) {
  if (btf_is_enum64(type)) return btf_enum64_value(::btf_enum64(type) + index);
  const auto value = static_cast<std::uint32_t>(::btf_enum(type)[index].val);
  return btf_kflag(type) ? static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(value)}) : value;
}

std::uint32_t enum_name_offset(const btf_type* type, std::uint32_t index) {
  return btf_is_enum64(type) ? ::btf_enum64(type)[index].name_off : ::btf_enum(type)[index].name_off;
}

}  // namespace

std::vector<Enumerator> KernelTypes::enumerators(const TypeInfo& type) const {
  std::vector<Enumerator> constants;
  const btf_type* raw = btf__type_by_id(btf_.get(), type.id);
  if (raw == nullptr || !btf_is_any_enum(raw)) return constants;
  constants.reserve(btf_vlen(raw));
  for (std::uint32_t i = 0; i < btf_vlen(raw); ++i) {
    if (const auto name = name_at(btf_.get(), enum_name_offset(raw, i)))
      constants.push_back({std::string(*name), enum_value(raw, i)});
  }
  return constants;
}

std::optional<std::uint64_t> KernelTypes::enumerator(std::string_view constant,
                                                     std::optional<std::uint64_t> fallback) const {
  if (constant.empty() || constant.size() > kMaxName) return std::nullopt;
  for (const std::uint32_t id : enums_) {
    const btf_type* type = btf__type_by_id(btf_.get(), id);
    for (std::uint32_t i = 0; i < btf_vlen(type); ++i) {
      const char* name = btf__name_by_offset(btf_.get(), enum_name_offset(type, i));
      // Most names differ within a few bytes, so this is cheaper than finding the length of each.
      if (name == nullptr || std::strncmp(name, constant.data(), constant.size()) != 0 ||
          name[constant.size()] != '\0')
        continue;
      const std::uint64_t value = enum_value(type, i);
      const bool may_be_cut = btf_is_enum(type) && (type->size > 4 || !has_enum64_);
      if (may_be_cut && fallback &&
          static_cast<std::uint32_t>(value) == static_cast<std::uint32_t>(*fallback))
        return fallback;
      return value;
    }
  }
  return std::nullopt;
}

std::expected<std::uint32_t, std::string> KernelTypes::parameter(std::string_view function,
                                                                 std::string_view name) const {
  const auto functions = find(NameClass::kFunction, function);
  if (functions.empty()) return std::unexpected(fmt::format("the kernel has no function {}", function));
  std::uint32_t budget = kMaxMembers;
  for (const std::uint32_t id : functions) {
    const btf_type* type = btf__type_by_id(btf_.get(), id);
    const btf_type* prototype = btf__type_by_id(btf_.get(), type->type);
    if (prototype == nullptr || !btf_is_func_proto(prototype)) continue;
    const btf_param* parameters = btf_params(prototype);
    for (std::uint32_t i = 0; i < btf_vlen(prototype) && budget > 0; ++i, --budget) {
      const auto found = name_at(btf_.get(), parameters[i].name_off);
      if (found && !found->empty() && *found == name) return i;
    }
  }
  return std::unexpected(fmt::format("function {} has no parameter {}", function, name));
}

bool KernelTypes::has_function(std::string_view name) const {
  return !find(NameClass::kFunction, name).empty();
}

std::optional<TypeInfo> KernelTypes::variable(std::string_view name) const {
  const auto id = find_first(NameClass::kVariable, name);
  if (!id) return std::nullopt;
  return type(btf__type_by_id(btf_.get(), *id)->type);
}

}  // namespace ktstr
