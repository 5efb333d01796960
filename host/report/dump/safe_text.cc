#include "host/report/dump/safe_text.h"

#include <array>
#include <cstdint>
#include <vector>

namespace ktstr {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr std::string_view kHex = "0123456789abcdef";

unsigned char byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

bool is_plain_ascii(unsigned char c) {
  return c >= 0x20 && c < 0x7f;
}

bool all_valid(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t length = byte_at(text, at) < 0x80 ? 1 : utf8_length(text.substr(at));
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string made_valid(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) {
      const unsigned char c = byte_at(text, 0);
      valid += static_cast<char>(0xc0 | c >> 6);
      valid += static_cast<char>(0x80 | (c & 0x3f));
      text.remove_prefix(1);
    } else {
      valid += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return valid;
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned char first = byte_at(text, 0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const std::size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (std::size_t at = 1; at < length; ++at) {
    if ((byte_at(text, at) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte_at(text, 1);
  if (first == 0xe0 && second < 0xa0) return 0;  // overlong
  if (first == 0xed && second > 0x9f) return 0;  // surrogate
  if (first == 0xf0 && second < 0x90) return 0;  // overlong
  if (first == 0xf4 && second > 0x8f) return 0;  // above U+10FFFF
  return length;
}

void put_json_string(DumpSink& sink, std::string_view text) {
  sink.put('"');
  std::size_t plain = 0;  // where what was not written yet begins
  std::size_t at = 0;
  while (at < text.size()) {
    const unsigned char c = byte_at(text, at);
    if (is_plain_ascii(c) && c != '"' && c != '\\') {
      ++at;
      continue;
    }
    const std::size_t length = utf8_length(text.substr(at));
    const bool c1 = length == 2 && c == 0xc2 && byte_at(text, at + 1) < 0xa0;
    if (length >= 2 && !c1) {
      at += length;
      continue;
    }
    sink.put(text.substr(plain, at - plain));
    if (c == '"' || c == '\\') {
      sink.put('\\');
      sink.put(static_cast<char>(c));
    } else if (c == '\n') {
      sink.put("\\n");
    } else if (c == '\t') {
      sink.put("\\t");
    } else {
      const unsigned char code = c1 ? byte_at(text, at + 1) : c;
      sink.put("\\u00");
      sink.put(kHex[code >> 4]);
      sink.put(kHex[code & 15]);
    }
    at += c1 ? 2 : 1;
    plain = at;
  }
  sink.put(text.substr(plain));
  sink.put('"');
}

std::string printable_utf8(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  while (!text.empty()) {
    const unsigned char c = byte_at(text, 0);
    const std::size_t length = utf8_length(text);
    const bool c1 = length == 2 && c == 0xc2 && byte_at(text, 1) < 0xa0;
    if (length == 0 || c1 || c < 0x20 || c == 0x7f) {
      const unsigned char code = c1 ? byte_at(text, 1) : c;
      safe += "\\x";
      safe += kHex[code >> 4];
      safe += kHex[code & 15];
      text.remove_prefix(c1 ? 2 : 1);
    } else {
      safe += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return safe;
}

void make_strings_valid(Message& message) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      // Keys of maps are names from the kernel's BTF or ours; the entries' values are numbers.
      if (field->is_map()) continue;
      if (!field->is_repeated()) {
        make_strings_valid(*reflection.MutableMessage(&message, field));
        continue;
      }
      for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
        make_strings_valid(*reflection.MutableRepeatedMessage(&message, field, i));
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      std::string scratch;
      if (!field->is_repeated()) {
        const std::string& text = reflection.GetStringReference(message, field, &scratch);
        if (!all_valid(text)) reflection.SetString(&message, field, made_valid(text));
        continue;
      }
      for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
        const std::string& text = reflection.GetRepeatedStringReference(message, field, i, &scratch);
        if (!all_valid(text)) reflection.SetRepeatedString(&message, field, i, made_valid(text));
      }
    }
  }
}

}  // namespace ktstr
