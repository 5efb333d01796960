// StructLayout's second half: copying an object of the guest, and making a message of the copy.
#include <algorithm>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include "common/cpu_set.h"
#include "host/inspect/struct_layout.h"

namespace ktstr {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

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
  if (!has(place.offset, stored_bytes(place))) return std::nullopt;
  return extract(place, bytes_);
}

std::span<const std::byte> ObjectCopy::bytes(const Place& place) const {
  if (!has(place.offset, place.type.size)) return {};
  return std::span(bytes_).subspan(place.offset, place.type.size);
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
  for (const OtherMember& other : others_) {
    if (other.how != OtherMember::How::kMaskPtr) continue;
    const auto target = from.read<Kva>(kva + other.place.offset, budget);
    if (target && target->value() != 0)
      whole = into.capture(from, *target, mask_bytes_, budget).has_value() && whole;
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

std::optional<std::string> StructLayout::mask_at(Kva kva, const std::string& path,
                                                 const Surroundings& around) const {
  if (kva.value() == 0) return std::nullopt;
  std::vector<std::byte> mask(mask_bytes_);
  if (const auto done = around.memory.read(kva, mask, around.budget); !done) {
    around.faults.add(path, done.error().to_string());
    return std::nullopt;
  }
  return cpu_list(mask, around.cpus);
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
      if (auto mask = mask_at(Kva(*number), field_path(), around))
        reflection->SetString(&message, field.descriptor, std::move(*mask));
      return;
    }
    default:
      return set_number(message, field.descriptor, *number);
  }
}

void StructLayout::fill(Message& message, const ObjectCopy& object, const std::string& path,
                        const Surroundings& around) const {
  for (const Field& field : fields_) fill_field(message, field, object, path, around);
  if (others_field_ != nullptr) fill_others(message, object, path, around);
}

std::optional<std::string> StructLayout::other_value(const OtherMember& member, const ObjectCopy& object,
                                                     const std::string& path,
                                                     const Surroundings& around) const {
  using How = OtherMember::How;
  if (member.how == How::kList || member.how == How::kMask) {
    const auto bytes = object.bytes(member.place);
    if (member.how == How::kMask)
      return bytes.empty() ? std::nullopt : std::optional(cpu_list(bytes, around.cpus));
    if (bytes.size() < 8) return std::nullopt;
    std::uint64_t next = 0;
    std::copy_n(bytes.begin(), 8, std::as_writable_bytes(std::span(&next, 1)).begin());
    const bool empty = next == 0 || next == (object.address() + member.place.offset).value();
    return empty ? "empty" : fmt::format("{:#x}", next);
  }
  const auto number = object.number(member.place);
  if (!number) return std::nullopt;
  if (member.how == How::kMaskPtr) return mask_at(Kva(*number), path + "." + member.name, around);
  if (member.how == How::kHex) return fmt::format("{:#x}", *number);
  if (member.place.type.kind == ValueKind::kEnum) return name_of(member.names, *number);
  if (member.place.type.is_signed) return fmt::format("{}", static_cast<std::int64_t>(*number));
  return fmt::format("{}", *number);
}

void StructLayout::fill_others(Message& message, const ObjectCopy& object, const std::string& path,
                               const Surroundings& around) const {
  const auto* reflection = message.GetReflection();
  for (const OtherMember& member : others_) {
    auto value = other_value(member, object, path, around);
    if (!value) continue;
    auto* other = static_cast<ktstr::v1::Other*>(reflection->AddMessage(&message, others_field_));
    other->set_name(member.name);
    other->set_value(std::move(*value));
  }
}

}  // namespace ktstr
