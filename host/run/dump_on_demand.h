// Dumps that somebody asks for from outside of the run: of a run in progress, by its folder; of a memory
// image that someone else took.
#pragma once

#include <string>

#include "common/error.h"
#include "host/run/run_request.h"

namespace ktstr {

// Asks the run whose folder this is for a dump and waits until it is written. The path of its text. Errors:
// kUsage (no such run, or it ended before), kHost (it wrote none in time).
Expected<std::string> dump_of_run(const std::string& folder);

// Makes a dump of an ELF core. `run` has --kernel, --vmlinux, --system-map and --out (empty: the current
// folder). The path of its text. Errors: kUsage (no memory image, another kernel's), kKernelLacks (no BTF or
// symbols), kNoBoot (the kernel in it is not found), kHost.
Expected<std::string> dump_of_memory(const std::string& core, const RunRequest& run);

}  // namespace ktstr
