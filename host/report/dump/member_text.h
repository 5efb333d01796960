// Every field of a message as text, from its descriptor: what the other sections do not show is in none of
// them left out for good.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/message.h>

#include "host/report/dump/dump_sink.h"
#include "host/report/dump/enum_names.h"

namespace ktstr {

// A line "<prefix>name = value" for each field that is set; a message within has a line for each of its own
// fields ("vcpu.cr3"), a list of messages a line of JSON for each element. Fields named in `without` are left
// out, at any depth.
void put_members(DumpSink& sink, const google::protobuf::Message& message, const EnumNames& names,
                 std::string_view prefix, const std::vector<std::string_view>& without);

}  // namespace ktstr
