// Several runs by one command: --repeat, several --scenario.
#pragma once

#include <string>

#include "host/run/run_request.h"

namespace ktstr {

// More than one run was asked for.
bool is_series(const RunRequest& request);

// Runs and prints; returns the worst run's exit code. `program`: what is started for each run.
int series_command(const RunRequest& request, const std::string& program = "/proc/self/exe");

}  // namespace ktstr
