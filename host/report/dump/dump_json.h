// JSON of a dump.
//
// Field names are those of dump.proto, so mostly the kernel's. Integers of any width are JSON numbers;
// addresses, flags and ids (fixed32, fixed64) are "0x..." strings. A field whose bits have names is followed
// by "<field>_names". Optional fields that are not set, absent messages and empty lists are left out; all
// else is written, 0 and "" too. Enums are lower-case names, maps objects with sorted keys, `other` an object
// {name: value}. The order is the schema's, so the same dump gives the same bytes.
//
// One element of a list (a task, a CPU, a DSQ) is one line: grep and diff then work as on a table.
#pragma once

#include <google/protobuf/message.h>

#include "host/report/dump/dump_sink.h"
#include "host/report/dump/enum_names.h"

namespace ktstr {

// The whole dump, with a newline at the end. The caller calls sink.finish().
void write_dump_json(const ktstr::v1::Dump& dump, DumpSink& sink);

// One message of a dump on one line, without a newline.
void write_message_json(const google::protobuf::Message& message, const EnumNames& names, DumpSink& sink);

}  // namespace ktstr
