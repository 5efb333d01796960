// Controller: the cgroup v2 controllers a scenario can need, and which knobs belong to which.
#pragma once

#include <set>
#include <string_view>

#include "proto/plan.pb.h"

namespace ktstr::guest {

enum class Controller { kCpu, kCpuset };

// As in cgroup.controllers: "cpu", "cpuset".
std::string_view controller_name(Controller controller);
// The kernel option that brings it.
std::string_view controller_config(Controller controller);
// The kernel option without which the file is missing although its controller is there; "" when there is
// none.
std::string_view knob_config(std::string_view file);

// The smallest set that `scenario` needs. A cgroup without knobs needs none: cgroup.procs, freeze and kill
// are core files.
std::set<Controller> required_controllers(const ktstr::v1::Scenario& scenario);

}  // namespace ktstr::guest
