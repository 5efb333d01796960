// The options of `ktstr-vm run`.
#pragma once

#include <CLI/CLI.hpp>

#include "host/run/run_request.h"

namespace ktstr {

// Adds the options to `app`; parsing fills `request`, which must outlive `app`.
void add_run_options(CLI::App& app, RunRequest& request);

}  // namespace ktstr
