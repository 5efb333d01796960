// Scenario files: protobuf text format of ktstr.v1.Scenario, from a file or from the built-in catalog.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/run/source_text.h"
#include "proto/plan.pb.h"

namespace ktstr {

// One scenario of the catalog that is compiled into the program (folder scenarios/).
struct CatalogEntry {
  std::string_view name;  // "steady"
  std::string_view text;  // the file's bytes
};
// Sorted by name.
std::vector<CatalogEntry> scenario_catalog();

struct LoadedScenario {
  ktstr::v1::Scenario scenario;  // name and duration filled in
  SourceText source;
};

// Loads `name_or_file`: a name of the catalog, or a path (anything with a slash or a dot in it). `cpus` is
// the number of CPUs of the machine, which CPU sets are checked against; `duration_override` replaces the
// scenario's own when not empty. All errors are kUsage with file:line:column, the offending line and a hint
// in the message's detail.
Expected<LoadedScenario> load_scenario(const std::string& name_or_file, std::uint32_t cpus,
                                       const std::string& duration_override);

// The same for text that is already in memory.
Expected<LoadedScenario> parse_scenario(SourceText source, std::uint32_t cpus,
                                        const std::string& duration_override);

}  // namespace ktstr
