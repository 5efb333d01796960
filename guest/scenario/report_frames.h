// Cuts the reports of a step into frames.
#pragma once

#include <cstdint>
#include <vector>

#include "proto/frames.pb.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// Reports of one cgroup are spread over as many frames as it takes to keep each below `kReportFrameSize`; all
// of them name the cgroup, and the receiver puts them together again. Small cgroups have a frame each.
inline constexpr std::size_t kReportFrameSize = std::size_t{1} << 20;

// StepReport frames for `cgroups`. The first frame carries `step` (when given; its own `cgroups` stay empty);
// a step without cgroups still gets one. `step` = nullptr: the backdrop.
std::vector<ktstr::v1::Frame> report_frames(std::uint32_t index, const ktstr::v1::StepResult* step,
                                            std::vector<ktstr::v1::CgroupResult> cgroups);

}  // namespace ktstr::guest
