#include "guest/init/plan_check.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "common/quote.h"
#include "common/scenario_check.h"
#include "common/units.h"

namespace ktstr::guest {
namespace {

std::string refuse_scheduler(const ktstr::v1::SchedulerSpec& scheduler) {
  const std::string& path = scheduler.guest_path();
  if (!path.starts_with('/') || path.size() > 4095 || path.find('\0') != std::string::npos) {
    return "scheduler.guest_path " + quote(path) + " is no absolute path";
  }
  if (scheduler.args_size() > kMaxSchedulerArgs) {
    return "scheduler.args has " + std::to_string(scheduler.args_size()) + " elements, at most " +
           std::to_string(kMaxSchedulerArgs) + " are taken";
  }
  for (const std::string& arg : scheduler.args()) {
    if (arg.size() > kMaxArgLength || arg.find('\0') != std::string::npos) {
      return "scheduler.args has an element that is too long or holds a zero byte: " + quote(arg);
    }
  }
  return {};
}

std::string refuse_limit(std::string_view name, const std::string& text) {
  if (text.empty()) return {};
  const Expected<std::chrono::nanoseconds> value = parse_duration(text);
  return value ? std::string() : "limits." + std::string(name) + ": " + value.error().to_string();
}

}  // namespace

std::string refuse_plan(const ktstr::v1::RunPlan& plan, std::uint32_t cpus) {
  if (plan.schema_version() != kPlanVersion) {
    return "the plan has schema version " + std::to_string(plan.schema_version()) +
           ", this guest knows version " + std::to_string(kPlanVersion);
  }
  if (plan.has_scheduler()) {
    if (std::string problem = refuse_scheduler(plan.scheduler()); !problem.empty()) return problem;
  }
  for (const auto& [name, text] :
       {std::pair<std::string_view, const std::string&>{"attach_idle", plan.limits().attach_idle()},
        {"attach_cpu", plan.limits().attach_cpu()},
        {"scenario_slack", plan.limits().scenario_slack()}}) {
    if (std::string problem = refuse_limit(name, text); !problem.empty()) return problem;
  }
  if (!plan.has_scenario()) return "the plan has no scenario";
  const std::vector<ScenarioProblem> problems = check_scenario(plan.scenario(), cpus);
  return problems.empty() ? std::string() : "scenario." + to_string(problems.front());
}

std::string refuse_other_scheduler(const ktstr::v1::RunPlan& plan, const ktstr::v1::SchedulerSpec& attached) {
  const auto& wanted = plan.scheduler();
  const bool same =
      plan.has_scheduler() && wanted.guest_path() == attached.guest_path() &&
      std::equal(wanted.args().begin(), wanted.args().end(), attached.args().begin(), attached.args().end());
  return same ? std::string()
              : "the plan's scheduler is not " + quote(attached.guest_path()) + ", which is attached";
}

}  // namespace ktstr::guest
