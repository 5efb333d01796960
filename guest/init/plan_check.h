// What PID 1 refuses to run. The plan came over a wire: it is checked like anything else that did.
#pragma once

#include <cstdint>
#include <string>

#include "proto/plan.pb.h"

namespace ktstr::guest {

inline constexpr std::uint32_t kPlanVersion = 1;
inline constexpr int kMaxSchedulerArgs = 256;
// Half of what execve(2) allows for one string (MAX_ARG_STRLEN, 128 KiB).
inline constexpr std::size_t kMaxArgLength = std::size_t{64} << 10;

// One sentence that says what is wrong with `plan` for a guest with `cpus` CPUs; "" when it can be run.
std::string refuse_plan(const ktstr::v1::RunPlan& plan, std::uint32_t cpus);

// The same for a plan that is to go on with the scheduler `attached`.
std::string refuse_other_scheduler(const ktstr::v1::RunPlan& plan, const ktstr::v1::SchedulerSpec& attached);

}  // namespace ktstr::guest
