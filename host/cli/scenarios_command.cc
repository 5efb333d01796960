#include "host/cli/scenarios_command.h"

#include <cstdio>

#include <fmt/format.h>

#include "host/run/scenario_file.h"

namespace ktstr {
namespace {

// Whether the guest has what a scenario requires is for the run to check, so any number of CPUs will do here
// as long as workers for each of them are not too many.
constexpr std::uint32_t kCpus = 16;

}  // namespace

int scenarios_command(const std::string& name) {
  for (const CatalogEntry& entry : scenario_catalog()) {
    if (entry.name == name) {
      fmt::print("{}", entry.text);
      return 0;
    }
  }
  if (!name.empty()) {
    const auto missing = load_scenario(name, kCpus, "");
    fmt::print(stderr, "ktstr-vm: {}\n",
               missing ? "'" + name + "' is a file, not a name of the catalog" : missing.error().to_string());
    return static_cast<int>(ErrorCode::kUsage);
  }
  for (const CatalogEntry& entry : scenario_catalog()) {
    const auto loaded = load_scenario(std::string(entry.name), kCpus, "");
    fmt::print("{:<20} {}\n", entry.name,
               loaded ? loaded->scenario.description() : loaded.error().to_string());
  }
  return 0;
}

}  // namespace ktstr
