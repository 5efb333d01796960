// What changed from one dump to another.
#pragma once

#include <string>
#include <vector>

#include "common/error.h"
#include "host/report/dump/dump_sink.h"
#include "proto/dump.pb.h"

namespace ktstr {

struct FieldChange {
  std::string field;
  std::string before;  // "-" where it was not set
  std::string after;
};

struct ObjectChange {
  enum class Kind { kAdded, kRemoved, kChanged };
  Kind kind = Kind::kChanged;
  std::string name;                 // "stress-ng[123]", "CPU 3", "user DSQ 0x7"
  std::vector<FieldChange> fields;  // for kChanged
};

struct SectionChanges {
  std::string section;  // as in dump.proto: "globals", "scheds", "cpus", "dsqs", "tasks"
  std::vector<ObjectChange> objects;
  std::size_t unchanged = 0;
};

// Schedulers are the same by address and name, CPUs by number, DSQs by address, id and kind, tasks by pid,
// comm and address. Numbers that only grow are shown with what was added ("+12").
std::vector<SectionChanges> diff_dumps(const ktstr::v1::Dump& before, const ktstr::v1::Dump& after);

// A line for each object that changed; "no difference" where none did.
void write_diff_text(const std::vector<SectionChanges>& sections, DumpSink& sink);
// {"tasks":{"unchanged":12,"changes":[{"name":..,"kind":"changed","fields":{"where":["running","on_dsq"]}}]}}
void write_diff_json(const std::vector<SectionChanges>& sections, DumpSink& sink);

}  // namespace ktstr
