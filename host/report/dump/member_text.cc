#include "host/report/dump/member_text.h"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include "host/report/dump/dump_json.h"
#include "host/report/dump/safe_text.h"
#include "proto/dump.pb.h"

namespace ktstr {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

class Members {
 public:
  Members(DumpSink& sink, const EnumNames& names, std::string_view prefix,
          const std::vector<std::string_view>& without)
      : sink_(sink), names_(names), prefix_(prefix), without_(without) {}

  void all(const Message& message, const std::string& path) {
    const auto* type = message.GetDescriptor();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor* field = type->field(i);
      if (std::find(without_.begin(), without_.end(), field->name()) == without_.end())
        one(message, field, path + field->name());
    }
  }

 private:
  void one(const Message& message, const FieldDescriptor* field, const std::string& path) {
    const Reflection& reflection = *message.GetReflection();
    if (field->is_repeated()) return list(message, field, path);
    if (field->has_presence() && !reflection.HasField(message, field)) return;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
      return all(reflection.GetMessage(message, field), path + ".");
    line(path, value(message, field, -1));
  }

  void list(const Message& message, const FieldDescriptor* field, const std::string& path) {
    const Reflection& reflection = *message.GetReflection();
    const int size = reflection.FieldSize(message, field);
    if (size == 0) return;
    if (field->message_type() == ktstr::v1::Other::descriptor()) return others(message, field, path);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      std::string text;
      for (int i = 0; i < size; ++i) text += (i == 0 ? "" : " ") + value(message, field, i);
      return line(path, text);
    }
    for (int i = 0; i < size; ++i) {
      std::string json;
      DumpSink sink(DumpSink::to_string(json));
      write_message_json(reflection.GetRepeatedMessage(message, field, i), names_, sink);
      sink.finish();
      line(fmt::format("{}[{}]", path, i), json);
    }
  }

  void others(const Message& message, const FieldDescriptor* field, const std::string& path) {
    const Reflection& reflection = *message.GetReflection();
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      const auto& other =
          static_cast<const ktstr::v1::Other&>(reflection.GetRepeatedMessage(message, field, i));
      line(path + ": " + printable_utf8(other.name()), printable_utf8(other.value()));
    }
  }

  // Of a scalar field, or of element `index` of a list.
  std::string value(const Message& message, const FieldDescriptor* field, int index) const {
    const Reflection& r = *message.GetReflection();
    const bool one = index < 0;
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_UINT64:
        return number(field, one ? r.GetUInt64(message, field) : r.GetRepeatedUInt64(message, field, index));
      case FieldDescriptor::CPPTYPE_UINT32:
        return number(field, one ? r.GetUInt32(message, field) : r.GetRepeatedUInt32(message, field, index));
      case FieldDescriptor::CPPTYPE_INT64:
        return fmt::format("{}",
                           one ? r.GetInt64(message, field) : r.GetRepeatedInt64(message, field, index));
      case FieldDescriptor::CPPTYPE_INT32:
        return fmt::format("{}",
                           one ? r.GetInt32(message, field) : r.GetRepeatedInt32(message, field, index));
      case FieldDescriptor::CPPTYPE_BOOL:
        return (one ? r.GetBool(message, field) : r.GetRepeatedBool(message, field, index)) ? "yes" : "no";
      case FieldDescriptor::CPPTYPE_STRING:
        return printable_utf8(one ? r.GetString(message, field) : r.GetRepeatedString(message, field, index));
      default:
        return fmt::format(
            "{}", one ? r.GetEnumValue(message, field) : r.GetRepeatedEnumValue(message, field, index));
    }
  }

  std::string number(const FieldDescriptor* field, std::uint64_t value) const {
    const bool hex =
        field->type() == FieldDescriptor::TYPE_FIXED64 || field->type() == FieldDescriptor::TYPE_FIXED32;
    std::string text = hex ? fmt::format("{:#x}", value) : fmt::format("{}", value);
    const std::string& bits = field->options().GetExtension(ktstr::v1::bits);
    if (bits.empty() || !names_.has(bits)) return text;
    for (const std::string& name : names_.names(bits, value)) text += " " + printable_utf8(name);
    return text;
  }

  void line(const std::string& path, const std::string& text) {
    sink_.print("{}{} = {}\n", prefix_, path, text);
  }

  DumpSink& sink_;
  const EnumNames& names_;
  std::string_view prefix_;
  const std::vector<std::string_view>& without_;
};

}  // namespace

void put_members(DumpSink& sink, const Message& message, const EnumNames& names, std::string_view prefix,
                 const std::vector<std::string_view>& without) {
  Members(sink, names, prefix, without).all(message, "");
}

}  // namespace ktstr
