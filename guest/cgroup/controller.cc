#include "guest/cgroup/controller.h"

namespace ktstr::guest {

std::string_view controller_name(Controller controller) {
  switch (controller) {
    case Controller::kCpu:
      return "cpu";
    case Controller::kCpuset:
      return "cpuset";
  }
  return "";
}

std::string_view controller_config(Controller controller) {
  switch (controller) {
    case Controller::kCpu:
      return "CONFIG_CGROUP_SCHED";
    case Controller::kCpuset:
      return "CONFIG_CPUSETS";
  }
  return "";
}

std::string_view knob_config(std::string_view file) {
  // kernel/sched/core.c: cpu_files[] has "weight" under CONFIG_GROUP_SCHED_WEIGHT, which either of two
  // options selects.
  if (file == "cpu.weight") return "CONFIG_FAIR_GROUP_SCHED or CONFIG_EXT_GROUP_SCHED";
  return "";
}

std::set<Controller> required_controllers(const ktstr::v1::Scenario& scenario) {
  std::set<Controller> needed;
  const auto add = [&](const auto& cgroups) {
    for (const ktstr::v1::CgroupDef& cgroup : cgroups) {
      if (!cgroup.cpuset().empty()) needed.insert(Controller::kCpuset);
      if (cgroup.has_cpu_weight()) needed.insert(Controller::kCpu);
    }
  };
  add(scenario.backdrop().cgroups());
  for (const ktstr::v1::Step& step : scenario.steps()) add(step.cgroups());
  return needed;
}

}  // namespace ktstr::guest
