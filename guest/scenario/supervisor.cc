#include "guest/scenario/supervisor.h"

#include <time.h>

namespace ktstr::guest {

MonotonicTime monotonic_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace ktstr::guest
