#include "guest/scenario/executor.h"

#include <unistd.h>

#include <algorithm>
#include <exception>

#include <fmt/format.h>

#include "guest/cgroup/cgroup_manager.h"
#include "guest/scenario/scenario_run.h"

namespace ktstr::guest {
namespace {

std::uint32_t online_cpus() {
  return static_cast<std::uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
}

}  // namespace

ScenarioOutcome run_scenario(const ktstr::v1::RunPlan& plan, const std::string& cgroup_root,
                             Supervisor& supervisor) {
  const std::uint32_t cpus = online_cpus();
  ScenarioOutcome outcome;
  try {
    CgroupManager cgroups(cgroup_root);
    ScenarioRun run(plan.scenario(), cpus, cgroups, supervisor, plan.deterministic().jitter_seed());
    outcome = run.run();
  } catch (const std::exception& exception) {
    outcome.verdict = ktstr::v1::HOST_TROUBLE;
    ktstr::v1::Reason& reason = outcome.reasons.emplace_back();
    reason.set_kind("internal");
    reason.set_text(fmt::format("the scenario broke off: {}", exception.what()));
  }
  return outcome;
}

}  // namespace ktstr::guest
