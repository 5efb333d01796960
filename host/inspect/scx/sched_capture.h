// SchedCapture: the schedulers, each with what it has on every CPU. Internal to host/inspect/scx.
#pragma once

#include <cstdint>

#include "host/inspect/scx/capture_context.h"
#include "host/inspect/scx/dsq_capture.h"
#include "host/inspect/walk/kva_set.h"

namespace ktstr {

class SchedCapture {
 public:
  SchedCapture(CaptureContext& context, DsqCapture& dsqs) : in_(context), dsqs_(dsqs) {}

  // All that the kernel's globals lead to, and the one that the trap was told about. Without their queues,
  // which come when all schedulers are safe.
  void walk();
  // In an image that does not name scx_root: the schedulers of the tasks that have one, with their queues. A
  // task that is back in another class may still point to one that is gone.
  void add_those_of_tasks();

 private:
  void sched_tree(Kva root);
  void add(Kva sched, Kva parent);
  void sched_cpu(SchedObjects& objects, std::uint32_t cpu, Kva pcpu, Kva stats);
  void legacy_sched();

  CaptureContext& in_;
  DsqCapture& dsqs_;
  KvaSet seen_;
};

}  // namespace ktstr
