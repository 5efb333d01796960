// `ktstr-vm dump --run DIR` and `ktstr-vm dump --memory CORE`: dumps on demand, of a run in progress or of a
// memory image that someone else took.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "host/run/run_request.h"

namespace ktstr {

struct DumpTakeRequest {
  std::string run;     // --run: folder of a run in progress
  std::string memory;  // --memory: an ELF core
  bool asked() const { return !run.empty() || !memory.empty(); }
};

void add_dump_take_options(CLI::App& command, DumpTakeRequest& request);

// `run` has --kernel, --vmlinux, --system-map and --out (empty: the current folder). Prints the files written
// to standard output. Returns the exit code: 0, 2 (no such run, no memory image, another kernel's), 11 (no
// BTF or symbols), 20.
int dump_take_command(const DumpTakeRequest& request, const RunRequest& run);

}  // namespace ktstr
