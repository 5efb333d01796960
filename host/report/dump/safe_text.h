// Text from the guest, which may hold anything, made fit for JSON, protobuf and terminals.
#pragma once

#include <string>
#include <string_view>

#include <google/protobuf/message.h>

#include "host/report/dump/dump_sink.h"

namespace ktstr {

// Bytes of the well-formed UTF-8 character that `text` begins with (RFC 3629: no overlong forms, no
// surrogates, at most U+10FFFF); 0 where there is none.
std::size_t utf8_length(std::string_view text);

// `text` as a JSON string with its quotes. Control characters (C0, DEL, C1) and bytes that are no UTF-8
// become \u00XX, the latter with the byte as XX.
void put_json_string(DumpSink& sink, std::string_view text);

// For a terminal: control characters and bytes that are no UTF-8 become \xXX.
std::string printable_utf8(std::string_view text);

// In place, all string fields of the message and of those in it: bytes that are no UTF-8 become the
// characters U+0080 to U+00FF. protobuf refuses to read other strings.
void make_strings_valid(google::protobuf::Message& message);

}  // namespace ktstr
