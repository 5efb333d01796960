#include "common/utc_time.h"

#include <fmt/chrono.h>

namespace ktstr {

std::string rfc3339(std::time_t time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(time));
}

std::string rfc3339_now() {
  return rfc3339(std::time(nullptr));
}

}  // namespace ktstr
