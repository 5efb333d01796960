#include "host/cli/scenarios_command.h"

#include <cstdio>

#include <fmt/format.h>

#include "host/run/scenario_file.h"

namespace ktstr {
namespace {

// The catalog is part of the program, and its requirements are for the run to check: any number of CPUs will
// do here.
constexpr std::uint32_t kManyCpus = 8192;

}  // namespace

int scenarios_command(const std::string& name) {
  for (const CatalogEntry& entry : scenario_catalog()) {
    if (entry.name == name) {
      fmt::print("{}", entry.text);
      return 0;
    }
  }
  if (!name.empty()) {
    const auto missing = load_scenario(name, kManyCpus, "");
    fmt::print(stderr, "ktstr-vm: {}\n",
               missing ? "'" + name + "' is a file, not a name of the catalog" : missing.error().to_string());
    return static_cast<int>(ErrorCode::kUsage);
  }
  for (const CatalogEntry& entry : scenario_catalog()) {
    const auto loaded = load_scenario(std::string(entry.name), kManyCpus, "");
    fmt::print("{:<20} {}\n", entry.name,
               loaded ? loaded->scenario.description() : loaded.error().to_string());
  }
  return 0;
}

}  // namespace ktstr
