// `ktstr-vm run`: plan, run, report.
#pragma once

#include "host/run/run_request.h"

namespace ktstr {

// Runs and prints; returns the process's exit code.
int run_command(const RunRequest& request);

// Prints an error that ended everything before a run existed, and the final line; returns the exit code.
int report_failure(const Error& error, const RunRequest& request);

}  // namespace ktstr
