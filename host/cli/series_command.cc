#include "host/cli/series_command.h"

#include <cstdio>
#include <vector>

#include <fmt/format.h>

#include "host/cli/run_command.h"
#include "host/cli/run_options.h"
#include "host/explore/jobs_plan.h"
#include "host/explore/run_series.h"
#include "host/explore/series_report.h"
#include "host/report/status_line.h"
#include "host/run/prepare.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kMaxRuns = 1'000'000;

std::vector<std::string> scenarios_of(const RunRequest& request) {
  std::vector<std::string> scenarios = {request.scenario};
  scenarios.insert(scenarios.end(), request.more_scenarios.begin(), request.more_scenarios.end());
  return scenarios;
}

// One run of it.
RunRequest single(const RunRequest& request, const std::string& scenario) {
  RunRequest one = request;
  one.scenario = scenario;
  one.more_scenarios.clear();
  one.repeat = 1;
  one.jobs.reset();
  one.verbose = 0;
  return one;
}

Expected<void> check_usage(const RunRequest& request, std::uint64_t runs) {
  if (runs > kMaxRuns)
    return fail(ErrorCode::kUsage, fmt::format("{} runs are too many; at most {}", runs, kMaxRuns));
  if (!request.explain) return {};
  return fail(ErrorCode::kUsage, "--explain is about one run; leave --repeat out and name one --scenario");
}

// What each guest needs at most; every mistake in the request is found here, before anything runs.
Expected<GuestNeed> need_of(const RunRequest& request) {
  GuestNeed need;
  for (const std::string& scenario : scenarios_of(request)) {
    const auto prepared = prepare(single(request, scenario));
    if (!prepared) return std::unexpected(prepared.error());
    need.vcpus = std::max(need.vcpus, prepared->topology.cpus());
    need.memory_bytes = std::max<std::uint64_t>(need.memory_bytes, prepared->plan.machine().memory_bytes());
  }
  return need;
}

}  // namespace

bool is_series(const RunRequest& request) {
  return request.repeat > 1 || !request.more_scenarios.empty();
}

int series_command(const RunRequest& request, const std::string& program) {
  const std::vector<std::string> scenarios = scenarios_of(request);
  const std::uint64_t count = request.repeat * std::uint64_t{scenarios.size()};
  if (auto usage = check_usage(request, count); !usage) return report_failure(usage.error(), request);
  const auto need = need_of(request);
  if (!need) return report_failure(need.error(), request);
  StatusLine status(stderr, StatusLine::is_live(stderr));
  const JobsPlan plan = plan_jobs(request.jobs, count, *need, host_room());
  if (!plan.less_because.empty()) status.event(plan.less_because);
  std::vector<SeriesRun> runs;
  // All scenarios once, then again: the first round shows the most.
  for (std::uint32_t round = 0; round < request.repeat; ++round) {
    for (const std::string& scenario : scenarios)
      runs.push_back({.scenario = scenario, .arguments = run_arguments(single(request, scenario))});
  }
  const auto outcomes = run_series(program, runs, plan.jobs, status);
  status.clear();
  fmt::print("{}{}\n", series_table(outcomes), series_final_line(outcomes));
  const SeriesOutcome* worst = worst_of(outcomes);
  return worst != nullptr && worst->started ? worst->exit_code : static_cast<int>(ErrorCode::kInconclusive);
}

}  // namespace ktstr
