// JSON of a protobuf message, the way scripts want it.
//
// protobuf's own printer writes 64-bit integers as strings (the proto3 JSON mapping does, for JavaScript's
// sake), which every jq expression and plot script then trips over. This one writes them as numbers, keeps
// the field names of the .proto file, writes enums by lower-case name, and keeps the fields' order, so that
// two results can be compared with diff(1). Scalar fields at their default value are written too: a reader
// need not know defaults; absent messages, absent `optional` fields and empty lists are left out.
#pragma once

#include <string>

#include <google/protobuf/message.h>

namespace ktstr {

// Indented by two spaces, one trailing newline. Invalid UTF-8 in strings is replaced; bytes fields are
// base64.
std::string to_json(const google::protobuf::Message& message);

}  // namespace ktstr
