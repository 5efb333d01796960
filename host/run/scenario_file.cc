#include "host/run/scenario_file.h"

#include <filesystem>

#include <fmt/format.h>

#include "common/read_file.h"
#include "common/scenario_check.h"
#include "common/units.h"
#include "host/run/embedded_scenarios.h"
#include "host/run/message_file.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxScenarioBytes = std::size_t{4} << 20;
constexpr std::string_view kDefaultDuration = "5s";

std::string catalog_names() {
  std::vector<std::string> names;
  for (const CatalogEntry& entry : scenario_catalog()) names.emplace_back(entry.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string base_name(const std::string& file) {
  return std::filesystem::path(file).stem().string();
}

Expected<SourceText> find_source(const std::string& name_or_file) {
  for (const CatalogEntry& entry : scenario_catalog()) {
    if (entry.name == name_or_file) {
      return SourceText(fmt::format("<catalog>/{}.textproto", entry.name), std::string(entry.text));
    }
  }
  if (name_or_file.find_first_of("/.") == std::string::npos) {
    std::vector<std::string> names;
    for (const CatalogEntry& entry : scenario_catalog()) names.emplace_back(entry.name);
    const std::string near = closest_match(name_or_file, names);
    return fail(ErrorCode::kUsage,
                fmt::format("no scenario '{}'{}; the catalog has: {}; a file needs its path", name_or_file,
                            near.empty() ? "" : " (did you mean '" + near + "'?)", catalog_names()));
  }
  auto text = read_file(name_or_file, kMaxScenarioBytes, ErrorCode::kUsage);
  if (!text) return propagate(std::move(text.error()), "reading the scenario");
  return SourceText(name_or_file, std::move(*text));
}

}  // namespace

std::vector<CatalogEntry> scenario_catalog() {
  std::vector<CatalogEntry> entries;
  for (const EmbeddedFile& file : embedded_scenarios()) entries.push_back({file.name, file.text});
  return entries;
}

Expected<LoadedScenario> load_scenario(const std::string& name_or_file, std::uint32_t cpus,
                                       const std::string& duration_override) {
  auto source = find_source(name_or_file);
  if (!source) return std::unexpected(std::move(source.error()));
  return parse_scenario(std::move(*source), cpus, duration_override);
}

Expected<LoadedScenario> parse_scenario(SourceText source, std::uint32_t cpus,
                                        const std::string& duration_override) {
  ktstr::v1::Scenario scenario;
  auto file = MessageFile::parse(std::move(source), scenario);
  if (!file) return std::unexpected(std::move(file.error()));
  if (scenario.name().empty()) scenario.set_name(base_name(file->source().name()));
  if (scenario.duration().empty()) scenario.set_duration(std::string(kDefaultDuration));
  if (!duration_override.empty()) scenario.set_duration(duration_override);

  const std::vector<ScenarioProblem> problems = check_scenario(scenario, cpus);
  if (!problems.empty()) {
    const ScenarioProblem& problem = problems.front();
    return std::unexpected(file->complain(problem.path, problem.message, problem.hint));
  }
  return LoadedScenario{std::move(scenario), file->source()};
}

}  // namespace ktstr
