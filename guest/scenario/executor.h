// The scenario executor: runs the steps of a plan and judges the workers' reports.
#pragma once

#include <string>
#include <vector>

#include "guest/scenario/supervisor.h"
#include "proto/plan.pb.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// What a scenario came to, before the host adds what it saw from outside.
struct ScenarioOutcome {
  ktstr::v1::Verdict verdict = ktstr::v1::PASS;
  std::vector<ktstr::v1::Reason> reasons;  // most important first
  std::vector<std::string> warnings;
};

// Runs `plan.scenario()` in the cgroup v2 hierarchy mounted at `cgroup_root`, sending ScenarioStart,
// StepStart, StepEnd, StepReport and ScenarioEnd frames through `supervisor`. Returns when every worker is
// gone and every cgroup removed, whatever happened. Never throws. When the scheduler is gone the verdict is
// SCHEDULER_DIED (PID 1 adds the scheduler's own message).
ScenarioOutcome run_scenario(const ktstr::v1::RunPlan& plan, const std::string& cgroup_root,
                             Supervisor& supervisor);

}  // namespace ktstr::guest
