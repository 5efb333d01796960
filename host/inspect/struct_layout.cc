#include "host/inspect/struct_layout.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include "common/cpu_set.h"

namespace ktstr {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Ranges that are this close are copied as one: a copy of its own costs more than the bytes between.
constexpr std::uint64_t kMergeGap = 64;
// Nested structures among the other members are opened this deep.
constexpr int kOtherDepth = 3;
constexpr std::size_t kMaxOthers = 200;

constexpr std::uint64_t byte_size(const Place& place) {
  return place.bit_size == 0 ? place.type.size : (place.bit_offset + place.bit_size + 7) / 8;
}

bool is_number(ValueKind kind) {
  return kind == ValueKind::kInteger || kind == ValueKind::kBool || kind == ValueKind::kEnum ||
         kind == ValueKind::kPointer;
}

std::string name_of(const std::vector<Enumerator>& names, std::uint64_t value) {
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const Enumerator& one) { return one.value == value; });
  return found == names.end() ? fmt::format("{}", static_cast<std::int64_t>(value)) : found->name;
}

// Text of a char array, up to its first zero.
std::string array_text(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return std::string(text.substr(0, text.find('\0')));
}

void set_number(Message& message, const FieldDescriptor* field, std::uint64_t value) {
  const auto* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->SetInt32(&message, field, static_cast<std::int32_t>(value));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection->SetInt64(&message, field, static_cast<std::int64_t>(value));
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection->SetUInt32(&message, field, static_cast<std::uint32_t>(value));
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->SetUInt64(&message, field, value);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->SetBool(&message, field, value != 0);
    default:
      return;
  }
}

// Whether `path` is one of `shown` or lies inside of one.
bool covered(const std::string& path, const std::vector<std::string>& shown) {
  return std::any_of(shown.begin(), shown.end(), [&](const std::string& one) {
    return path == one || (path.starts_with(one) && (path[one.size()] == '.' || path[one.size()] == '['));
  });
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

std::string cpu_list(std::span<const std::byte> mask, std::uint32_t cpus) {
  CpuSet set;
  for (std::uint32_t cpu = 0; cpu < cpus && cpu / 8 < mask.size(); ++cpu) {
    if ((std::to_integer<unsigned>(mask[cpu / 8]) >> (cpu % 8) & 1U) != 0) set.insert(cpu);
  }
  return set.to_string();
}

void FaultLog::add(std::string path, std::string text) {
  if (++count_ > kMax) return;
  auto& fault = faults_.emplace_back();
  fault.set_path(std::move(path));
  fault.set_text(std::move(text));
}

// ---------------------------------------------------------------------------------------------------------------------
// ObjectCopy

bool ObjectCopy::has(std::uint64_t offset, std::uint64_t size) const {
  if (size > bytes_.size() || offset > bytes_.size() - size) return false;
  return std::none_of(missing_.begin(), missing_.end(),
                      [&](const Range& gap) { return offset < gap.end && gap.begin < offset + size; });
}

std::optional<std::uint64_t> ObjectCopy::number(const Place& place) const {
  if (!has(place.offset, byte_size(place))) return std::nullopt;
  return extract(place, bytes_);
}

std::span<const std::byte> ObjectCopy::bytes(const Place& place) const {
  if (!has(place.offset, place.type.size)) return {};
  return std::span(bytes_).subspan(place.offset, place.type.size);
}

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
      reason += fmt::format("{}the kernel has no struct {}", reason.empty() ? "" : "; ",
                            field->containing_type()->options().GetExtension(ktstr::v1::of));
      continue;
    }
    path.erase(0, prefix_.size());
    const auto place = types.place(type_, path);
    if (!place) {
      if (!reason.ends_with(place.error())) reason += (reason.empty() ? "" : "; ") + place.error();
      continue;
    }
    const auto show = how(types, field, place->type);
    if (!show) {
      reason += fmt::format("{}{}.{} is of another kind than expected ({})", reason.empty() ? "" : "; ",
                            struct_name_, path, place->type.name);
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

void StructLayout::add_others(const KernelTypes& types, const TypeInfo& type, std::string_view base,
                              int depth, const std::vector<std::string>& shown) {
  for (const Place& member : types.members(type)) {
    if (others_.size() >= kMaxOthers) return;
    const std::string path = base.empty() ? member.path : fmt::format("{}.{}", base, member.path);
    if (member.path.empty() || covered(path, shown)) continue;
    const auto place = types.place(type_, path);
    if (!place) continue;
    const bool list = place->type.name == "list_head" || place->type.name == "llist_head";
    if (list || is_number(place->type.kind)) {
      if (contains_shown(path, shown)) continue;
      OtherMember other{path, *place, place->type.kind == ValueKind::kPointer || list, list, {}};
      if (list) other.place.type.size = std::min<std::uint64_t>(place->type.size, 8);
      if (place->type.kind == ValueKind::kEnum) other.names = types.enumerators(place->type);
      add_span(other.place);
      others_.push_back(std::move(other));
    } else if ((place->type.kind == ValueKind::kStruct || place->type.kind == ValueKind::kUnion) &&
               depth < kOtherDepth && !(is_lock(place->type) && contains_shown(path, shown))) {
      add_others(types, place->type, path, depth + 1, shown);
    }
    // Of a lock its whole value is enough; the other members are parts of it under other names.
    if (is_lock(type)) return;
  }
}

void StructLayout::add_span(const Place& place) {
  const std::uint64_t size = byte_size(place);
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

std::optional<Place> StructLayout::want(const KernelTypes& types,
                                        const std::vector<std::string_view>& paths) {
  for (const std::string_view path : paths) {
    if (!known_) break;
    if (const auto place = types.place(type_, path)) {
      // Embedded objects have a layout of their own.
      if (place->type.size <= 64) add_span(*place);
      return *place;
    }
  }
  return std::nullopt;
}

std::optional<Place> StructLayout::need(const KernelTypes& types, std::string_view what,
                                        const std::vector<std::string_view>& paths) {
  auto place = want(types, paths);
  if (place || !known_) return place;
  auto& absence = absent_.emplace_back();
  absence.set_what(std::string(what));
  std::string reason;
  for (const std::string_view path : paths) {
    const auto tried = types.place(type_, path);
    if (!tried) reason += (reason.empty() ? "" : "; ") + tried.error();
  }
  absence.set_reason(std::move(reason));
  return place;
}

// ---------------------------------------------------------------------------------------------------------------------
// Copying

bool StructLayout::capture(CapturedMemory& into, KernelReader& from, Kva kva, ReadBudget& budget) const {
  bool whole = true;
  for (const Span& span : spans_) {
    if (!into.capture(from, kva + span.offset, span.size, budget)) whole = false;
  }
  for (const Field& field : fields_) {
    if (field.show != Show::kString && field.show != Show::kMaskPtr) continue;
    const auto target = from.read<Kva>(kva + field.place.offset, budget);
    if (!target || target->value() == 0) continue;
    if (field.show == Show::kMaskPtr) {
      whole = into.capture(from, *target, mask_bytes_, budget).has_value() && whole;
      continue;
    }
    const auto text = from.read_c_string(*target, kMaxString, budget);
    whole =
        text && into.capture(from, *target, text->text.size() + (text->terminated ? 1 : 0), budget) && whole;
  }
  return whole;
}

ObjectCopy StructLayout::copy(KernelReader& memory, Kva kva, const std::string& path, FaultLog& log,
                              ReadBudget& budget) const {
  ObjectCopy object;
  object.address_ = kva;
  object.bytes_.resize(type_.size);
  for (const Span& span : spans_) {
    const auto done =
        memory.read(kva + span.offset, std::span(object.bytes_).subspan(span.offset, span.size), budget);
    if (done) continue;
    object.missing_.push_back({span.offset, span.offset + span.size});
    log.add(fmt::format("{}+{:#x}", path, span.offset), done.error().to_string());
  }
  return object;
}

// ---------------------------------------------------------------------------------------------------------------------
// Filling

std::string StructLayout::string_at(Kva kva, std::size_t limit, const std::string& path,
                                    const Surroundings& around) const {
  if (kva.value() == 0) return {};
  auto text = around.memory.read_c_string(kva, limit, around.budget);
  if (text) return std::move(text->text);
  around.faults.add(path, text.error().to_string());
  return {};
}

void StructLayout::fill_field(Message& message, const Field& field, const ObjectCopy& object,
                              const std::string& path, const Surroundings& around) const {
  const auto* reflection = message.GetReflection();
  const auto field_path = [&] { return path + "." + field.place.path; };
  if (field.show == Show::kCharArray || field.show == Show::kMask) {
    const auto bytes = object.bytes(field.place);
    if (bytes.empty()) return;
    reflection->SetString(&message, field.descriptor,
                          field.show == Show::kMask ? cpu_list(bytes, around.cpus) : array_text(bytes));
    return;
  }
  const auto number = object.number(field.place);
  if (!number) return;
  switch (field.show) {
    case Show::kEnum:
      return reflection->SetString(&message, field.descriptor, name_of(field.names, *number));
    case Show::kSymbol: {
      std::string symbol = *number == 0 ? std::string() : around.kernel.describe(Kva(*number));
      if (symbol.ends_with("+0x0")) symbol.resize(symbol.size() - 4);
      if (symbol.empty() && *number != 0) symbol = fmt::format("{:#x}", *number);
      return reflection->SetString(&message, field.descriptor, std::move(symbol));
    }
    case Show::kString:
      return reflection->SetString(&message, field.descriptor,
                                   string_at(Kva(*number), kMaxString, field_path(), around));
    case Show::kMaskPtr: {
      if (*number == 0) return;
      std::vector<std::byte> mask(mask_bytes_);
      if (const auto done = around.memory.read(Kva(*number), mask, around.budget); !done)
        return around.faults.add(field_path(), done.error().to_string());
      return reflection->SetString(&message, field.descriptor, cpu_list(mask, around.cpus));
    }
    default:
      return set_number(message, field.descriptor, *number);
  }
}

void StructLayout::fill(Message& message, const ObjectCopy& object, const std::string& path,
                        const Surroundings& around) const {
  for (const Field& field : fields_) fill_field(message, field, object, path, around);
  if (others_field_ != nullptr) fill_others(message, object);
}

void StructLayout::fill_others(Message& message, const ObjectCopy& object) const {
  const auto* reflection = message.GetReflection();
  for (const OtherMember& member : others_) {
    const auto number = object.number(member.place);
    std::string value;
    if (member.list) {
      const auto bytes = object.bytes(member.place);
      if (bytes.size() < 8) continue;
      std::uint64_t next = 0;
      std::copy_n(bytes.begin(), 8, std::as_writable_bytes(std::span(&next, 1)).begin());
      const bool empty = next == 0 || next == (object.address() + member.place.offset).value();
      value = empty ? "empty" : fmt::format("{:#x}", next);
    } else if (!number) {
      continue;
    } else if (member.place.type.kind == ValueKind::kEnum) {
      value = name_of(member.names, *number);
    } else if (member.hex) {
      value = fmt::format("{:#x}", *number);
    } else if (member.place.type.is_signed) {
      value = fmt::format("{}", static_cast<std::int64_t>(*number));
    } else {
      value = fmt::format("{}", *number);
    }
    auto* other = static_cast<ktstr::v1::Other*>(reflection->AddMessage(&message, others_field_));
    other->set_name(member.name);
    other->set_value(std::move(value));
  }
}

}  // namespace ktstr
