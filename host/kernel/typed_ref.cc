#include "host/kernel/typed_ref.h"

#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

namespace ktstr {
namespace {

// Error pointers are the last 4095 addresses (MAX_ERRNO of include/linux/err.h).
constexpr std::uint64_t kMaxErrno = 4095;
constexpr std::uint64_t kPageSize = 4096;

// Long paths come of long walks ("x->next->next->..."): the begin and the end tell most.
std::string shortened(std::string path) {
  if (path.size() <= TypedRef::kMaxPath) return path;
  constexpr std::size_t kHead = 80;
  constexpr std::string_view kGap = "...";
  const std::size_t tail = TypedRef::kMaxPath - kHead - kGap.size();
  return path.substr(0, kHead) + std::string(kGap) + path.substr(path.size() - tail);
}

// The pattern that a debugging kernel fills memory with (include/linux/poison.h), when all upper bytes of a
// pointer are it; the lower ones may be changed by the offset of a member.
std::optional<std::string> fill_pattern(std::uint64_t value) {
  const std::uint64_t byte = value >> 56;
  if (value >> 16 != byte * 0x010101010101u) return std::nullopt;
  switch (byte) {
    case 0x6b:
      return fmt::format("{:#x}: freed memory (POISON_FREE)", value);
    case 0x5a:
      return fmt::format("{:#x}: memory that was never written (POISON_INUSE)", value);
    case 0xa5:
      return fmt::format("{:#x}: end of a slab object (POISON_END)", value);
    case 0xbb:
    case 0xcc:
      return fmt::format("{:#x}: red zone of a slab object or freed init memory", value);
    case 0xaa:
      return fmt::format("{:#x}: freed page (PAGE_POISON)", value);
    default:
      return std::nullopt;
  }
}

}  // namespace

std::string Missing::to_string() const {
  return fmt::format("{}: {}", path, fault ? fault->to_string() : reason);
}

std::optional<std::string> bad_pointer(Kva pointer) {
  const std::uint64_t value = pointer.value();
  if (value == 0) return "null pointer";
  if (value < kPageSize) return fmt::format("null pointer plus {}", value);
  if (value >= 0 - kMaxErrno) return fmt::format("error pointer -{}", 0 - value);
  if (auto pattern = fill_pattern(value)) return pattern;
  // POISON_POINTER_DELTA of x86-64, plus what include/linux/poison.h and drivers add to it.
  if (value == 0xdead000000000100) return "LIST_POISON1 (next of what was taken off a list)";
  if (value == 0xdead000000000122) return "LIST_POISON2 (prev of what was taken off a list)";
  if (value >> 32 == 0xdead0000) return fmt::format("{:#x}: poison", value);
  // With five levels of page tables 57 bits are translated; with four the reader is stricter.
  const std::uint64_t top = value >> 56;
  if (top != 0 && top != 0xff) return fmt::format("{:#x} is not canonical", value);
  if (top == 0) return fmt::format("{:#x} is not a kernel address", value);
  return std::nullopt;
}

TypedRef::TypedRef(const ReadContext& context, Kva address, TypeInfo type, std::string path,
                   bool behind_pointer)
    : types_(&context.types),
      memory_(&context.memory),
      budget_(&context.budget),
      address_(address),
      path_(shortened(std::move(path))),
      behind_pointer_(behind_pointer) {
  place_.type = std::move(type);
}

std::unexpected<Missing> TypedRef::missing(std::string reason) const {
  return std::unexpected(Missing{.path = path(), .fault = std::nullopt, .reason = std::move(reason)});
}

std::unexpected<Missing> TypedRef::missing(const Fault& fault) const {
  return std::unexpected(Missing{.path = path(), .fault = fault, .reason = {}});
}

Datum<TypedRef> TypedRef::plain_member(std::string_view path) const {
  auto found = types_->place(place_.type, path);
  if (!found) return missing(std::move(found.error()));
  TypedRef ref(context(), address_ + found->offset, std::move(found->type),
               path_ +
                   (path.starts_with('[') ? ""
                    : behind_pointer_     ? "->"
                                          : ".") +
                   std::string(path),
               false);
  ref.place_.bit_offset = found->bit_offset;
  ref.place_.bit_size = found->bit_size;
  return ref;
}

Datum<TypedRef> TypedRef::member(std::string_view path) const {
  constexpr std::string_view kArrow = "->";
  Datum<TypedRef> here = *this;
  for (std::size_t step = 0; step < KernelTypes::kMaxDepth; ++step) {
    const std::size_t arrow = path.find(kArrow);
    here = here->plain_member(path.substr(0, arrow));
    if (!here || arrow == std::string_view::npos) return here;
    path.remove_prefix(arrow + kArrow.size());
    here = here->deref();
    if (!here) return here;
  }
  return missing(fmt::format("more than {} pointers in a row", KernelTypes::kMaxDepth));
}

Datum<TypedRef> TypedRef::at(std::uint64_t index) const {
  if (place_.type.kind == ValueKind::kPointer) {
    const auto target = deref();
    if (!target) return target;
    const std::uint64_t size = target->type().size;
    if (size == 0) return missing("points to what has no size");
    return TypedRef(context(), target->address() + index * size, target->type(),
                    fmt::format("{}[{}]", path_, index));
  }
  const auto elements = types_->array(place_.type);
  if (!elements) return missing(fmt::format("is {}, not an array", describe(place_.type)));
  if (elements->count != 0 && index >= elements->count)
    return missing(fmt::format("has {} elements, so no [{}]", elements->count, index));
  const std::string array = behind_pointer_ ? fmt::format("(*{})", path_) : path_;
  return TypedRef(context(), address_ + index * elements->element.size, elements->element,
                  fmt::format("{}[{}]", array, index));
}

Datum<TypedRef> TypedRef::deref() const {
  if (place_.type.kind != ValueKind::kPointer)
    return missing(fmt::format("is {}, not a pointer", describe(place_.type)));
  const auto pointer = value();
  if (!pointer) return std::unexpected(pointer.error());
  if (auto problem = bad_pointer(Kva(*pointer))) return missing(std::move(*problem));
  return behind(context(), Kva(*pointer), types_->pointee(place_.type), path());
}

TypedRef TypedRef::cast(TypeInfo type) const {
  return {context(), address_, std::move(type), path_, behind_pointer_};
}

Datum<TypedRef> TypedRef::cast(std::string_view struct_name) const {
  auto type = types_->find_struct(struct_name);
  if (!type) return missing(fmt::format("the kernel has no struct {}", struct_name));
  return cast(std::move(*type));
}

Datum<TypedRef> TypedRef::container_of(std::string_view struct_name, std::string_view member) const {
  auto type = types_->find_struct(struct_name);
  if (!type) return missing(fmt::format("the kernel has no struct {}", struct_name));
  const auto place = types_->place(*type, member);
  if (!place) return missing(place.error());
  const std::string pointer = behind_pointer_ ? path_ : "&" + path_;
  return behind(context(), address_ - place->offset, std::move(*type),
                fmt::format("container_of({}, {}, {})", pointer, struct_name, member));
}

Datum<std::uint64_t> TypedRef::value() const {
  std::array<std::byte, 9> stored{};  // a bit field may reach over nine bytes
  const std::uint64_t size = stored_bytes(place_);
  const auto bytes = std::span(stored).first(std::min<std::size_t>(size, stored.size()));
  // Whether it is a number at all does not depend on its bytes, so that nothing is read in vain.
  if (size > stored.size() || !extract_stored(place_, bytes))
    return missing(fmt::format("is {}, not a number", describe(place_.type)));
  if (const auto done = memory_->read(address_, bytes, *budget_); !done) return missing(done.error());
  return *extract_stored(place_, bytes);
}

Datum<std::string> TypedRef::c_string(std::size_t limit) const {
  limit = std::min(limit, kMaxBytes);
  Kva from = address_;
  TypeInfo character;
  std::string shown = path();
  if (place_.type.kind == ValueKind::kPointer) {
    character = types_->pointee(place_.type);
  } else if (const auto elements = types_->array(place_.type)) {
    character = elements->element;
    if (elements->count != 0) limit = std::min<std::uint64_t>(limit, elements->count);
  }
  if (character.kind != ValueKind::kInteger || character.size != 1)
    return missing(fmt::format("is {}, not text", describe(place_.type)));
  if (place_.type.kind == ValueKind::kPointer) {
    const auto target = deref();
    if (!target) return std::unexpected(target.error());
    from = target->address();
    shown = target->path();
  }
  auto text = memory_->read_c_string(from, limit, *budget_);
  if (!text) return std::unexpected(Missing{.path = std::move(shown), .fault = text.error(), .reason = {}});
  return std::move(text->text);
}

Datum<std::vector<std::byte>> TypedRef::bytes(std::size_t size) const {
  if (size > kMaxBytes)
    return missing(fmt::format("{} bytes are more than the {} that are read at once", size, kMaxBytes));
  std::vector<std::byte> copy(size);
  if (const auto done = memory_->read(address_, copy, *budget_); !done) return missing(done.error());
  return copy;
}

Datum<std::uint64_t> TypedRef::read(std::string_view path) const {
  const auto found = member(path);
  if (!found) return std::unexpected(found.error());
  return found->value();
}

Datum<std::string> TypedRef::read_string(std::string_view path, std::size_t limit) const {
  const auto found = member(path);
  if (!found) return std::unexpected(found.error());
  return found->c_string(limit);
}

}  // namespace ktstr
