#include "host/inspect/struct_layout.h"

#include <algorithm>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include "host/inspect/reasons.h"

namespace ktstr {
namespace {

using google::protobuf::FieldDescriptor;

// Ranges that are this close are copied as one: a copy of its own costs more than the bytes between.
constexpr std::uint64_t kMergeGap = 64;
// Nested structures among the other members are opened this deep.
constexpr int kOtherDepth = 3;
constexpr std::size_t kMaxOthers = 200;
constexpr std::uint64_t kMaxElements = 16;  // of an array
// Of those that are not shown.
constexpr std::size_t kMaxNamed = 8;

bool is_number(ValueKind kind) {
  return kind == ValueKind::kInteger || kind == ValueKind::kBool || kind == ValueKind::kEnum ||
         kind == ValueKind::kPointer;
}

// Whether `path` is one of `shown` or lies inside of one.
bool covered(const std::string& path, const std::vector<std::string>& shown) {
  return std::any_of(shown.begin(), shown.end(), [&](const std::string& one) {
    return path == one || (path.starts_with(one) && (path[one.size()] == '.' || path[one.size()] == '['));
  });
}

bool is_list(const TypeInfo& type) {
  return type.name == "list_head" || type.name == "llist_head";
}

bool is_mask(const TypeInfo& type) {
  return type.kind == ValueKind::kStruct && type.name == "cpumask";
}

bool is_lock(const TypeInfo& type) {
  return type.name == "raw_spinlock" || type.name == "spinlock" || type.name == "qspinlock";
}

// Whether something inside of `path` is shown.
bool contains_shown(const std::string& path, const std::vector<std::string>& shown) {
  return std::any_of(shown.begin(), shown.end(), [&](const std::string& one) {
    return one.size() > path.size() && one.starts_with(path) &&
           (one[path.size()] == '.' || one[path.size()] == '[');
  });
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Resolving

StructLayout::StructLayout(const KernelTypes& types, const google::protobuf::Descriptor* message,
                           std::size_t mask_bytes, std::optional<std::string_view> others,
                           const std::vector<std::string_view>& not_others)
    : mask_bytes_(mask_bytes),
      struct_name_(message->options().GetExtension(ktstr::v1::of)),
      message_name_(message->name()) {
  resolve(types, message);
  if (!known_) return;
  std::vector<std::string> shown(not_others.begin(), not_others.end());
  for (const Field& field : fields_) shown.push_back(field.place.path);
  others_field_ = message->FindFieldByName("other");
  if (!others || others_field_ == nullptr) return;
  TypeInfo base = type_;
  if (!others->empty()) {
    const auto place = types.place(type_, *others);
    if (!place) return;
    base = place->type;
  }
  add_others(types, base, *others, 0, shown);
  if (others_not_shown_.empty()) return;
  auto& absence = absent_.emplace_back();
  absence.set_what(message_name_ + ".other");
  const std::size_t named = std::min(others_not_shown_.size(), kMaxNamed);
  const auto begin = others_not_shown_.begin();
  std::string text = fmt::format("{}", fmt::join(begin, begin + static_cast<std::ptrdiff_t>(named), ", "));
  if (others_not_shown_.size() > named) text += fmt::format(" and {} more", others_not_shown_.size() - named);
  absence.set_reason("not shown: " + text);
}

StructLayout::StructLayout(const KernelTypes& types, const google::protobuf::Descriptor* message,
                           std::size_t mask_bytes, const Alias& alias)
    : mask_bytes_(mask_bytes),
      struct_name_(alias.struct_name),
      prefix_(alias.prefix),
      message_name_(message->name()) {
  resolve(types, message);
}

void StructLayout::resolve(const KernelTypes& types, const google::protobuf::Descriptor* message) {
  const auto type = types.find_struct(struct_name_);
  if (!type || type->size > kMaxObject) {
    auto& absence = absent_.emplace_back();
    absence.set_what(message_name_);
    absence.set_reason(
        type ? fmt::format("struct {} has {} bytes, more than {}", struct_name_, type->size, kMaxObject)
             : fmt::format("the kernel has no struct {}", struct_name_));
    return;
  }
  known_ = true;
  type_ = *type;
  for (int i = 0; i < message->field_count(); ++i) {
    const FieldDescriptor* field = message->field(i);
    if (field->options().ExtensionSize(ktstr::v1::at) > 0) add_field(types, field);
  }
}

void StructLayout::add_field(const KernelTypes& types, const FieldDescriptor* field) {
  const auto& options = field->options();
  std::string reason;
  for (int i = 0; i < options.ExtensionSize(ktstr::v1::at); ++i) {
    std::string path = options.GetExtension(ktstr::v1::at, i);
    if (!path.starts_with(prefix_)) {
      add_reason(reason, fmt::format("the kernel has no struct {}",
                                     field->containing_type()->options().GetExtension(ktstr::v1::of)));
      continue;
    }
    path.erase(0, prefix_.size());
    const auto place = types.place(type_, path);
    if (!place) {
      add_reason(reason, place.error());
      continue;
    }
    const auto show = how(types, field, place->type);
    if (!show) {
      add_reason(reason, fmt::format("{}.{} is of another kind than expected ({})", struct_name_, path,
                                     place->type.name));
      continue;
    }
    Field resolved{field, *place, *show, {}};
    if (*show == Show::kEnum) resolved.names = types.enumerators(place->type);
    if (*show == Show::kMask)
      resolved.place.type.size = std::min<std::uint64_t>(place->type.size, mask_bytes_);
    add_span(resolved.place);
    fields_.push_back(std::move(resolved));
    if (options.ExtensionSize(ktstr::v1::at) > 1) {
      auto& access = access_.emplace_back();
      access.set_field(message_name_ + "." + field->name());
      access.set_path(struct_name_ + "." + path);
    }
    return;
  }
  auto& absence = absent_.emplace_back();
  absence.set_what(message_name_ + "." + field->name());
  absence.set_reason(std::move(reason));
}

std::optional<StructLayout::Show> StructLayout::how(const KernelTypes& types, const FieldDescriptor* field,
                                                    const TypeInfo& type) const {
  if (field->options().GetExtension(ktstr::v1::cpumask)) {
    if (type.kind == ValueKind::kPointer) return Show::kMaskPtr;
    const bool in_place = type.kind == ValueKind::kStruct || type.kind == ValueKind::kArray;
    return in_place && type.size > 0 ? std::optional(Show::kMask) : std::nullopt;
  }
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) {
    if (!is_number(type.kind)) return std::nullopt;
    return field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL ? Show::kBool : Show::kNumber;
  }
  if (type.kind == ValueKind::kEnum) return Show::kEnum;
  if (type.kind == ValueKind::kArray) {
    const auto array = types.array(type);
    return array && array->element.is_char ? std::optional(Show::kCharArray) : std::nullopt;
  }
  if (type.kind != ValueKind::kPointer) return std::nullopt;
  return types.pointee(type).is_char ? Show::kString : Show::kSymbol;
}

void StructLayout::add_other(const KernelTypes& types, const Place& place, const std::string& path) {
  if (others_.size() >= kMaxOthers)
    return others_not_shown_.push_back(fmt::format("{} (more than {} members)", path, kMaxOthers));
  OtherMember other{path, place, OtherMember::How::kNumber, {}};
  const TypeInfo& type = place.type;
  if (is_list(type)) {
    other.how = OtherMember::How::kList;
    other.place.type.size = std::min<std::uint64_t>(type.size, 8);
  } else if (is_mask(type)) {
    other.how = OtherMember::How::kMask;
    other.place.type.size = std::min<std::uint64_t>(type.size, mask_bytes_);
  } else if (type.kind == ValueKind::kPointer) {
    other.how = is_mask(types.pointee(type)) ? OtherMember::How::kMaskPtr : OtherMember::How::kHex;
  } else if (type.kind == ValueKind::kEnum) {
    other.names = types.enumerators(type);
  }
  add_span(other.place);
  others_.push_back(std::move(other));
}

// The elements one by one: some of them may have fields.
void StructLayout::add_other_array(const KernelTypes& types, const TypeInfo& type, const std::string& path,
                                   const std::vector<std::string>& shown) {
  const auto array = types.array(type);
  if (!array) return;
  if (array->count == 0) return others_not_shown_.push_back(path + "[] (of no fixed length)");
  if (!is_number(array->element.kind))
    return others_not_shown_.push_back(path + "[] (elements that are no numbers)");
  const std::uint64_t count = std::min(array->count, kMaxElements);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string element = fmt::format("{}[{}]", path, i);
    const auto place = types.place(type_, element);
    if (place && !covered(element, shown)) add_other(types, *place, element);
  }
  if (count < array->count)
    others_not_shown_.push_back(fmt::format("{}[{}] (of {} elements)", path, count, array->count));
}

void StructLayout::add_others(const KernelTypes& types, const TypeInfo& type, std::string_view base,
                              int depth, const std::vector<std::string>& shown) {
  for (const Place& member : types.members(type)) {
    const std::string path = base.empty() ? member.path : fmt::format("{}.{}", base, member.path);
    if (member.path.empty() || covered(path, shown)) continue;
    const auto place = types.place(type_, path);
    if (!place) continue;
    const ValueKind kind = place->type.kind;
    if (is_list(place->type) || is_mask(place->type) || is_number(kind)) {
      if (!contains_shown(path, shown)) add_other(types, *place, path);
    } else if (kind == ValueKind::kArray) {
      add_other_array(types, place->type, path, shown);
    } else if ((kind == ValueKind::kStruct || kind == ValueKind::kUnion) &&
               !(is_lock(place->type) && contains_shown(path, shown))) {
      if (depth < kOtherDepth)
        add_others(types, place->type, path, depth + 1, shown);
      else
        others_not_shown_.push_back(fmt::format("{} (a structure {} deep)", path, depth + 1));
    }
    // Of a lock its whole value is enough; the other members are parts of it under other names.
    if (is_lock(type)) return;
  }
}

void StructLayout::add_span(const Place& place) {
  const std::uint64_t size = stored_bytes(place);
  if (size == 0 || place.offset > type_.size || size > type_.size - place.offset) return;
  spans_.push_back({place.offset, size});
  std::sort(spans_.begin(), spans_.end(), [](const Span& a, const Span& b) { return a.offset < b.offset; });
  std::vector<Span> merged;
  for (const Span& span : spans_) {
    if (!merged.empty() && span.offset <= merged.back().offset + merged.back().size + kMergeGap) {
      merged.back().size = std::max(merged.back().size, span.offset + span.size - merged.back().offset);
    } else {
      merged.push_back(span);
    }
  }
  spans_ = std::move(merged);
}

namespace {

bool is_kind(const TypeInfo& type, std::string_view is) {
  if (is == StructLayout::kPointer) return type.kind == ValueKind::kPointer;
  if (is == StructLayout::kNumber) return is_number(type.kind) && type.kind != ValueKind::kPointer;
  return type.kind == ValueKind::kStruct && type.name == is;
}

std::string kind_text(std::string_view is) {
  if (is == StructLayout::kPointer) return "a pointer";
  if (is == StructLayout::kNumber) return "a number";
  return fmt::format("struct {}", is);
}

}  // namespace

std::optional<Place> StructLayout::want(const KernelTypes& types, std::string_view is,
                                        const std::vector<std::string_view>& paths, std::string* why) {
  if (!known_) return std::nullopt;
  std::string reasons;
  for (const std::string_view path : paths) {
    const auto place = types.place(type_, path);
    if (place && is_kind(place->type, is)) {
      // Embedded objects have a layout of their own.
      if (place->type.size <= 64) add_span(*place);
      return *place;
    }
    const std::string reason =
        place ? fmt::format("{}.{} is {}, not {}", struct_name_, path, describe(place->type), kind_text(is))
              : place.error();
    add_reason(reasons, reason);
  }
  if (why != nullptr) *why = std::move(reasons);
  return std::nullopt;
}

std::optional<Place> StructLayout::need(const KernelTypes& types, std::string_view what, std::string_view is,
                                        const std::vector<std::string_view>& paths) {
  std::string reason;
  auto place = want(types, is, paths, &reason);
  if (place || !known_) return place;
  auto& absence = absent_.emplace_back();
  absence.set_what(std::string(what));
  absence.set_reason(std::move(reason));
  return place;
}

}  // namespace ktstr
