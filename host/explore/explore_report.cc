#include "host/explore/explore_report.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/quote.h"
#include "host/explore/signature.h"
#include "host/report/summary.h"
#include "host/run/run_request.h"

namespace ktstr {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;
// Seeds of a group that the summary names.
constexpr std::size_t kSeedsShown = 8;

std::string shown_seeds(const Findings::Group& group) {
  std::string text;
  for (std::size_t i = 0; i < std::min(group.seeds.size(), kSeedsShown); ++i) {
    text += fmt::format(" {}", group.seeds[i]);
  }
  return text + (group.count > kSeedsShown ? " ..." : "");
}

std::string why_text(const ExploreEnd& end) {
  switch (end.why) {
    case ExploreEnd::Why::kSeedsDone:
      return "all seeds done";
    case ExploreEnd::Why::kBudget:
      return "time budget used up";
    case ExploreEnd::Why::kFailure:
      return "ended at the first failure";
    case ExploreEnd::Why::kSignal:
      return "ended by " + end.message;
    case ExploreEnd::Why::kTrouble:
      return "given up";
  }
  return "";
}

std::vector<std::string> replay_command(const ExploreState& state, const SeedRecord& kept) {
  return {"ktstr-vm", "replay", (state.path() / kept.folder).string()};
}

Json group_json(const ExploreState& state, const Findings::Group& group) {
  Json kept = Json::array();
  for (const SeedRecord& record : group.kept) {
    kept.push_back({{"seed", record.seed},
                    {"folder", (state.path() / record.folder).string()},
                    {"replay", replay_command(state, record)}});
  }
  return {{"signature", signature_hash(group.signature)},
          {"text", group.signature},
          {"verdict", group.verdict},
          {"count", group.count},
          {"seeds", group.seeds},
          {"rerun", rerun_command(state.header(), group.seeds.front())},
          {"kept", std::move(kept)}};
}

}  // namespace

std::vector<std::string> rerun_command(const ExploreHeader& header, std::uint64_t seed) {
  std::vector<std::string> words = {"ktstr-vm", "run"};
  words.insert(words.end(), header.run_arguments.begin(), header.run_arguments.end());
  words.push_back(fmt::format("--deterministic={}", seed));
  if (header.out != RunRequest{}.out) words.push_back("--out=" + header.out);
  return words;
}

std::string explore_summary(const ExploreState& state, const ExploreEnd& end) {
  const Findings& findings = state.findings();
  std::string text;
  for (const Findings::Group* group : findings.groups()) {
    text += fmt::format("{:>6} x {} {}\n", group->count, signature_hash(group->signature), group->signature);
    text += fmt::format("         seeds:{}\n", shown_seeds(*group));
    text += fmt::format("         {}\n", shell_quoted(rerun_command(state.header(), group->seeds.front())));
    if (!group->kept.empty()) {
      text += fmt::format("         {}\n", shell_quoted(replay_command(state, group->kept.front())));
    }
  }
  const auto wall_ns = static_cast<std::uint64_t>(end.wall.count());
  text +=
      fmt::format("{} seeds, {} failures in {} groups; {} in {} ({})\n", findings.seeds(),
                  findings.failures(), findings.group_count(), end.seeds, short_time(wall_ns), why_text(end));
  text += fmt::format("ktstr-vm explore: seeds={} failures={} groups={} folder={}\n", findings.seeds(),
                      findings.failures(), findings.group_count(), state.path().string());
  return text;
}

std::string explore_json(const ExploreState& state, const ExploreEnd& end) {
  const Findings& findings = state.findings();
  const ExploreHeader& header = state.header();
  Json groups = Json::array();
  for (const Findings::Group* group : findings.groups()) groups.push_back(group_json(state, *group));
  const Json object = {{"schema_version", kSchemaVersion},
                       {"folder", state.path().string()},
                       {"run_arguments", header.run_arguments},
                       {"working_directory", header.working_directory},
                       {"first_seed", header.first_seed},
                       {"seeds", findings.seeds()},
                       {"failures", findings.failures()},
                       {"groups", std::move(groups)},
                       {"ended", name_of(end.why)},
                       {"message", end.message},
                       {"session_seeds", end.seeds},
                       {"session_wall_ns", end.wall.count()},
                       {"exit_code", explore_exit_code(state, end)}};
  return object.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int explore_exit_code(const ExploreState& state, const ExploreEnd& end) {
  if (end.why == ExploreEnd::Why::kTrouble) return end.exit_code;
  if (state.findings().failures() > 0) return 1;
  const bool tested = state.findings().seeds() > 0 && end.why != ExploreEnd::Why::kSignal;
  return tested ? 0 : static_cast<int>(ErrorCode::kInconclusive);
}

}  // namespace ktstr
