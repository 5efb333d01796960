// The time of day, as records of runs and dumps have it.
#pragma once

#include <ctime>
#include <string>

namespace ktstr {

// RFC 3339 in UTC, whole seconds: "2026-11-21T14:05:00Z".
std::string rfc3339(std::time_t time);
std::string rfc3339_now();

}  // namespace ktstr
