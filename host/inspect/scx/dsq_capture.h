// DsqCapture: dispatch queues with the tasks on them, and the buffers from which tasks get there.
// Internal to host/inspect/scx.
#pragma once

#include <cstdint>
#include <optional>

#include "host/inspect/scx/capture_context.h"
#include "host/inspect/scx/task_capture.h"

namespace ktstr {

class DsqCapture {
 public:
  DsqCapture(CaptureContext& context, TaskCapture& tasks) : in_(context), tasks_(tasks) {}

  // The queue inside of `object`, of CPU `index`; nothing in kernels that do not have it.
  void add_member(Kva object, const std::optional<Place>& place, ktstr::v1::Dsq::Kind kind,
                  std::uint32_t index, Kva sched);
  // Global and user queues of a struct scx_sched.
  void walk_sched(Kva sched);
  // Those of kernels that keep them in globals.
  void walk_legacy();
  // In an image that names neither global_dsqs nor dsq_hash, nor leads to a scheduler: the queues that tasks
  // are on.
  void add_those_of_tasks();
  // What a CPU has decided to dispatch, struct scx_dsp_ctx at `context`.
  void keep_dispatch_buffer(Kva context);

 private:
  void add(Kva dsq, ktstr::v1::Dsq::Kind kind, std::optional<std::uint32_t> index, Kva sched);
  void global_dsqs(Kva table, std::uint64_t offset, Kva sched);
  void user_dsqs(Kva table, Kva sched);
  void dsq_entry(DsqObjects& objects, Kva node);
  void priq(DsqObjects& objects);

  CaptureContext& in_;
  TaskCapture& tasks_;
};

}  // namespace ktstr
