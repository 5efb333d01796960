#include "guest/scenario/report_frames.h"

#include <utility>

namespace ktstr::guest {
namespace {

ktstr::v1::Frame empty_frame(std::uint32_t index, bool backdrop) {
  ktstr::v1::Frame frame;
  frame.mutable_step_report()->set_index(index);
  frame.mutable_step_report()->set_backdrop(backdrop);
  return frame;
}

}  // namespace

std::vector<ktstr::v1::Frame> report_frames(std::uint32_t index, const ktstr::v1::StepResult* step,
                                            std::vector<ktstr::v1::CgroupResult> cgroups) {
  std::vector<ktstr::v1::Frame> frames;
  for (ktstr::v1::CgroupResult& cgroup : cgroups) {
    ktstr::v1::CgroupResult* part = nullptr;
    std::size_t size = 0;
    const auto begin_part = [&] {
      frames.push_back(empty_frame(index, step == nullptr));
      part = frames.back().mutable_step_report()->mutable_cgroup();
      part->set_cgroup(cgroup.cgroup());
      part->set_cpuset(cgroup.cpuset());
      size = 0;
    };
    begin_part();
    for (ktstr::v1::WorkerReport& worker : *cgroup.mutable_workers()) {
      const std::size_t worker_size = worker.ByteSizeLong();
      if (size > 0 && size + worker_size > kReportFrameSize) begin_part();
      size += worker_size;
      part->add_workers()->Swap(&worker);
    }
  }
  if (step != nullptr) {
    if (frames.empty()) frames.push_back(empty_frame(index, false));
    *frames.front().mutable_step_report()->mutable_step() = *step;
  }
  return frames;
}

}  // namespace ktstr::guest
