// The options of `ktstr-vm run`.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "host/run/run_request.h"

namespace ktstr {

// Adds the options to `app`; parsing fills `request`, which must outlive `app`.
void add_run_options(CLI::App& app, RunRequest& request);

// The options that parsing turns back into an equal request: one word each ("--cpus=4"), only those that
// differ from the defaults, `argv` and `explain` left out.
std::vector<std::string> run_arguments(const RunRequest& request);

}  // namespace ktstr
