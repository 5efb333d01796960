// `ktstr-vm dump show|diff|query`: dumps that lie in a folder, without a guest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "common/error.h"
#include "host/report/dump/dump_sink.h"

namespace ktstr {

struct DumpRequest {
  enum class Action { kNone, kShow, kDiff, kQuery };
  Action action = Action::kNone;
  std::string file;                 // show, query, diff: the first
  std::string second;               // diff
  std::string expression;           // query
  bool json = false;                // --json
  bool all = false;                 // show --all
  bool count = false;               // query --count
  std::vector<std::uint32_t> cpus;  // show --cpu
  std::vector<std::int32_t> pids;   // show --task
  std::vector<std::string> dsqs;    // show --dsq: id, decimal or 0x
};

// Adds the commands below `command`; parsing fills `request`, which must outlive it.
void add_dump_options(CLI::App& command, DumpRequest& request);

// Prints to standard output; returns the process's exit code: 0, 2 (no dump, no such task, bad query), 20.
// A reader that closes its end of a pipe is no error.
int dump_command(const DumpRequest& request);

// What dump_command prints, into `sink`; the caller calls finish().
Expected<> render_dump_command(const DumpRequest& request, DumpSink& sink);

}  // namespace ktstr
