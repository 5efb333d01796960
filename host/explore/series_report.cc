#include "host/explore/series_report.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "common/error.h"
#include "host/report/summary.h"
#include "host/report/verdict_text.h"
#include "host/run/console_scanner.h"

namespace ktstr {
namespace {

// Worst first; the codes of --bisect stand beside those they stand for.
constexpr std::array kWorst = {2, 128, 3, 5, 4, 1, 10, 12, 11, 20, 125, 21, 0};

std::size_t rank_of(const SeriesOutcome& outcome) {
  if (!outcome.started) return kWorst.size();
  const auto* found = std::find(kWorst.begin(), kWorst.end(), outcome.exit_code);
  // A code that no run has is trouble of the host.
  if (found == kWorst.end())
    found = std::find(kWorst.begin(), kWorst.end(), static_cast<int>(ErrorCode::kHost));
  return static_cast<std::size_t>(found - kWorst.begin());
}

// "clone, attached", "booted".
std::string origin(const ktstr::v1::RunResult& result) {
  return result.clone().snapshot().empty() ? "booted" : "clone, " + printable(result.clone().point());
}

std::string verdict_text(const SeriesOutcome& outcome) {
  if (!outcome.started) return "not started";
  if (outcome.result.schema_version() == 0) return fmt::format("exit {}", outcome.exit_code);
  std::string text = verdict_name(outcome.result.verdict());
  if (outcome.result.reasons_size() > 0) text += ": " + printable(outcome.result.reasons(0).kind());
  return text;
}

}  // namespace

const SeriesOutcome* worst_of(std::span<const SeriesOutcome> outcomes) {
  const auto worst = std::min_element(
      outcomes.begin(), outcomes.end(),
      [](const SeriesOutcome& a, const SeriesOutcome& b) { return rank_of(a) < rank_of(b); });
  return worst == outcomes.end() ? nullptr : &*worst;
}

std::string series_table(std::span<const SeriesOutcome> outcomes) {
  std::size_t scenario_width = 8;
  std::size_t verdict_width = 7;
  for (const SeriesOutcome& outcome : outcomes) {
    scenario_width = std::max(scenario_width, printable(outcome.scenario).size());
    verdict_width = std::max(verdict_width, verdict_text(outcome).size());
  }
  std::string text = fmt::format("{:>4}  {:<{}}  {:<{}}  {:>8}  {:<15}  {}\n", "RUN", "SCENARIO",
                                 scenario_width, "VERDICT", verdict_width, "TIME", "GUEST", "RESULTS");
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const SeriesOutcome& one = outcomes[i];
    const bool result = one.result.schema_version() != 0;
    text += fmt::format("{:>4}  {:<{}}  {:<{}}  {:>8}  {:<15}  {}\n", i + 1, printable(one.scenario),
                        scenario_width, verdict_text(one), verdict_width,
                        one.started ? short_time(static_cast<std::uint64_t>(one.took.count())) : "-",
                        result ? origin(one.result) : "-", one.result_path.empty() ? "-" : one.result_path);
  }
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    if (!outcomes[i].words.empty()) text += fmt::format("run {} said:\n{}", i + 1, outcomes[i].words);
  }
  return text;
}

std::string series_final_line(std::span<const SeriesOutcome> outcomes) {
  const SeriesOutcome* worst = worst_of(outcomes);
  ktstr::v1::RunResult result;
  if (worst != nullptr) result = worst->result;
  if (worst != nullptr && result.schema_version() == 0)
    result.set_verdict(worst->started ? static_cast<ktstr::v1::Verdict>(worst->exit_code)
                                      : ktstr::v1::INCONCLUSIVE);
  const auto passed = std::count_if(outcomes.begin(), outcomes.end(), [](const SeriesOutcome& one) {
    return one.started && one.exit_code == 0;
  });
  std::string line = final_line(result, worst != nullptr ? worst->result_path : "");
  const std::size_t mark = line.find(" result=");
  return line.insert(mark, fmt::format(" runs={} passed={}", outcomes.size(), passed));
}

}  // namespace ktstr
