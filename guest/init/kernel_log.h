// The kernel's log, from a moment on.
#pragma once

#include <string>
#include <vector>

#include "common/unique_fd.h"

namespace ktstr::guest {

// Remembers the end of the log when it is made. Not having /dev/kmsg means no messages.
class KernelLog {
 public:
  KernelLog();
  // The sched_ext messages since the last call (scheduler_exit.h), at most 256 of at most 4,096 records.
  std::vector<std::string> take_sched_ext();

 private:
  UniqueFd fd_;
};

}  // namespace ktstr::guest
