// CpuCapture: the run queues, and what sched_ext has in per-CPU variables. Internal to host/inspect/scx.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "host/inspect/scx/capture_context.h"
#include "host/inspect/scx/dsq_capture.h"
#include "host/inspect/scx/task_capture.h"

namespace ktstr {

class CpuCapture {
 public:
  CpuCapture(CaptureContext& context, TaskCapture& tasks, DsqCapture& dsqs)
      : in_(context), tasks_(tasks), dsqs_(dsqs) {}

  void walk();

 private:
  void one_cpu(std::uint32_t cpu, Kva rq);
  void runnable_list(CpuObjects& objects);
  std::optional<std::size_t> length(Kva object, const std::optional<Place>& list);
  void per_cpu_variables(CpuObjects& objects);
  // Says which of them this kernel does not name.
  void missing_variables();
  bool is_per_cpu(std::string_view name) const;
  std::optional<Kva> per_cpu_array(std::string_view name, std::uint32_t cpu);

  CaptureContext& in_;
  TaskCapture& tasks_;
  DsqCapture& dsqs_;
};

}  // namespace ktstr
