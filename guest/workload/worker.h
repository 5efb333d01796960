// A worker's life, from fork to _exit.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "guest/workload/shared_area.h"
#include "proto/plan.pb.h"

namespace ktstr::guest {

// What a worker needs to know. Everything is the parent's; the worker has a copy of the address space.
struct WorkerTask {
  const ktstr::v1::WorkSpec* work = nullptr;
  std::uint32_t work_index = 0;  // of `work` within its cgroup
  std::size_t worker = 0;        // which slot
  const SharedArea* area = nullptr;
  const Gate* gate = nullptr;
  std::uint64_t seed = 0;
  std::uint64_t jitter_seed = 0;  // for jitter_worker()
  int bell = -1;                  // eventfd of the parent
  pid_t parent = 0;
  bool wait_for_admission = false;  // the parent still has to move us into our cgroup
};

// Runs in the forked child and never returns: sets itself up, reports ready, waits at the gate, works until
// it is told to stop, commits its report, leaves with _exit(0). _exit(1): it could not.
[[noreturn]] void run_worker(const WorkerTask& task);

}  // namespace ktstr::guest
