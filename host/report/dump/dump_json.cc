// protobuf's own JSON printer takes several seconds for a large dump, as it goes through type resolvers and
// a dynamic copy. Here the schema is looked at once for each message type, and then every field costs one
// call of reflection and one copy of its name.
#include "host/report/dump/dump_json.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

struct FieldPlan {
  const FieldDescriptor* field = nullptr;
  std::string key;        // "\"name\":"
  std::string names_key;  // "\"name_names\":"; empty: its bits have no names
  std::string bits;
  bool hex = false;
  bool as_object = false;  // `other`
};

bool is_hex(const FieldDescriptor& field) {
  return field.type() == FieldDescriptor::TYPE_FIXED64 || field.type() == FieldDescriptor::TYPE_FIXED32;
}

std::string lower(std::string_view name) {
  std::string text(name);
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

class Writer {
 public:
  Writer(DumpSink& sink, const EnumNames& names) : sink_(sink), names_(names) {}

  // Members separated by `separator`, which follows "{" and every comma.
  void object(const Message& message, int depth, bool lines) {
    const Reflection& reflection = *message.GetReflection();
    sink_.put('{');
    bool first = true;
    for (const FieldPlan& plan : plans(*message.GetDescriptor())) {
      if (!present(message, reflection, plan)) continue;
      if (!first) sink_.put(',');
      first = false;
      begin_member(depth, lines);
      sink_.put(plan.key);
      if (lines) sink_.put(' ');
      field(message, reflection, plan, depth, lines);
    }
    if (lines && !first) newline(depth - 1);
    sink_.put('}');
  }

 private:
  const std::vector<FieldPlan>& plans(const Descriptor& type) {
    auto& known = plans_[&type];
    if (known) return *known;
    known = std::make_unique<std::vector<FieldPlan>>();
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor* field = type.field(i);
      FieldPlan plan;
      plan.field = field;
      plan.key = "\"" + field->name() + "\":";
      plan.hex = is_hex(*field);
      plan.as_object = field->is_repeated() && field->message_type() == ktstr::v1::Other::descriptor();
      plan.bits = field->options().GetExtension(ktstr::v1::bits);
      if (!plan.bits.empty() && names_.has(plan.bits)) plan.names_key = ",\"" + field->name() + "_names\":";
      known->push_back(std::move(plan));
    }
    return *known;
  }

  static bool present(const Message& message, const Reflection& reflection, const FieldPlan& plan) {
    if (plan.field->is_repeated()) return reflection.FieldSize(message, plan.field) > 0;
    return !plan.field->has_presence() || reflection.HasField(message, plan.field);
  }

  void newline(int depth) {
    sink_.put('\n');
    for (int i = 0; i < depth; ++i) sink_.put("  ");
  }
  void begin_member(int depth, bool lines) {
    if (lines) newline(depth);
  }

  void number(std::uint64_t value, bool hex) {
    if (hex) {
      sink_.print("\"{:#x}\"", value);
    } else {
      const fmt::format_int text(value);
      sink_.put(std::string_view(text.data(), text.size()));
    }
  }
  void number(std::int64_t value) {
    const fmt::format_int text(value);
    sink_.put(std::string_view(text.data(), text.size()));
  }

  void field(const Message& message, const Reflection& reflection, const FieldPlan& plan, int depth,
             bool lines) {
    const FieldDescriptor* f = plan.field;
    if (f->is_map()) return map(message, reflection, f);
    if (plan.as_object) return others(message, reflection, f);
    if (f->is_repeated()) return list(message, reflection, plan, depth, lines);
    if (f->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      return object(reflection.GetMessage(message, f), depth + 1, lines && depth < 2);
    }
    std::string scratch;
    std::uint64_t bits = 0;
    switch (f->cpp_type()) {
      case FieldDescriptor::CPPTYPE_UINT64:
        bits = reflection.GetUInt64(message, f);
        number(bits, plan.hex);
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        bits = reflection.GetUInt32(message, f);
        number(bits, plan.hex);
        break;
      case FieldDescriptor::CPPTYPE_INT32:
        bits = static_cast<std::uint64_t>(std::int64_t{reflection.GetInt32(message, f)});
        number(static_cast<std::int64_t>(bits));
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        bits = static_cast<std::uint64_t>(reflection.GetInt64(message, f));
        number(static_cast<std::int64_t>(bits));
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        sink_.put(reflection.GetBool(message, f) ? "true" : "false");
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        enum_value(*f, reflection.GetEnumValue(message, f));
        break;
      default:
        put_json_string(sink_, reflection.GetStringReference(message, f, &scratch));
        break;
    }
    if (!plan.names_key.empty()) {
      sink_.put(plan.names_key);
      sink_.put('[');
      bool first = true;
      for (const std::string& name : names_.names(plan.bits, bits)) {
        if (!first) sink_.put(',');
        first = false;
        put_json_string(sink_, name);
      }
      sink_.put(']');
    }
  }

  void enum_value(const FieldDescriptor& f, int value) {
    const auto* known = f.enum_type()->FindValueByNumber(value);
    if (known == nullptr) return number(std::int64_t{value});
    put_json_string(sink_, lower(known->name()));
  }

  void list(const Message& message, const Reflection& reflection, const FieldPlan& plan, int depth,
            bool lines) {
    const FieldDescriptor* f = plan.field;
    const int size = reflection.FieldSize(message, f);
    // Only lists of messages are worth a line for each element.
    const bool each_line = lines && f->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    std::string scratch;
    sink_.put('[');
    for (int i = 0; i < size; ++i) {
      if (i > 0) sink_.put(',');
      if (each_line) newline(depth + 1);
      switch (f->cpp_type()) {
        case FieldDescriptor::CPPTYPE_MESSAGE:
          object(reflection.GetRepeatedMessage(message, f, i), depth + 2, false);
          break;
        case FieldDescriptor::CPPTYPE_UINT64:
          number(reflection.GetRepeatedUInt64(message, f, i), plan.hex);
          break;
        case FieldDescriptor::CPPTYPE_UINT32:
          number(reflection.GetRepeatedUInt32(message, f, i), plan.hex);
          break;
        case FieldDescriptor::CPPTYPE_INT32:
          number(std::int64_t{reflection.GetRepeatedInt32(message, f, i)});
          break;
        case FieldDescriptor::CPPTYPE_INT64:
          number(reflection.GetRepeatedInt64(message, f, i));
          break;
        case FieldDescriptor::CPPTYPE_BOOL:
          sink_.put(reflection.GetRepeatedBool(message, f, i) ? "true" : "false");
          break;
        case FieldDescriptor::CPPTYPE_ENUM:
          enum_value(*f, reflection.GetRepeatedEnumValue(message, f, i));
          break;
        default:
          put_json_string(sink_, reflection.GetRepeatedStringReference(message, f, i, &scratch));
          break;
      }
    }
    if (each_line) newline(depth);
    sink_.put(']');
  }

  void others(const Message& message, const Reflection& reflection, const FieldDescriptor* f) {
    sink_.put('{');
    for (int i = 0; i < reflection.FieldSize(message, f); ++i) {
      const auto& other = static_cast<const ktstr::v1::Other&>(reflection.GetRepeatedMessage(message, f, i));
      if (i > 0) sink_.put(',');
      put_json_string(sink_, other.name());
      sink_.put(':');
      put_json_string(sink_, other.value());
    }
    sink_.put('}');
  }

  // Maps of the schema are from names to numbers.
  void map(const Message& message, const Reflection& reflection, const FieldDescriptor* f) {
    std::vector<std::pair<std::string, const Message*>> entries;
    const FieldDescriptor* key = f->message_type()->map_key();
    for (int i = 0; i < reflection.FieldSize(message, f); ++i) {
      const Message& entry = reflection.GetRepeatedMessage(message, f, i);
      entries.emplace_back(entry.GetReflection()->GetString(entry, key), &entry);
    }
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    FieldPlan value;
    value.field = f->message_type()->map_value();
    value.hex = is_hex(*value.field);
    sink_.put('{');
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) sink_.put(',');
      put_json_string(sink_, entries[i].first);
      sink_.put(':');
      field(*entries[i].second, *entries[i].second->GetReflection(), value, 0, false);
    }
    sink_.put('}');
  }

  DumpSink& sink_;
  const EnumNames& names_;
  std::unordered_map<const Descriptor*, std::unique_ptr<std::vector<FieldPlan>>> plans_;
};

}  // namespace

void write_dump_json(const ktstr::v1::Dump& dump, DumpSink& sink) {
  const EnumNames names(dump);
  Writer(sink, names).object(dump, 1, true);
  sink.put('\n');
}

void write_message_json(const google::protobuf::Message& message, const EnumNames& names, DumpSink& sink) {
  Writer(sink, names).object(message, 0, false);
}

}  // namespace ktstr
