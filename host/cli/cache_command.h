// `ktstr-vm cache list|clear|verify`: the snapshots that are kept (docs/snapshots.md).
#pragma once

#include <ctime>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "common/error.h"
#include "host/snapshot/snapshot_cache.h"

namespace ktstr {

struct CacheRequest {
  enum class Action { kNone, kList, kClear, kVerify };
  Action action = Action::kNone;
  std::vector<std::string> keys;  // clear: beginnings of keys; none: all
  bool json = false;              // --json
};

// Adds the commands below `command`; parsing fills `request`, which must outlive it.
void add_cache_options(CLI::App& command, CacheRequest& request);

// Prints to standard output; returns the process's exit code: 0, 1 (verify found a snapshot that is not
// whole), 2 (no such key), 20 (the cache cannot be read or written).
int cache_command(const CacheRequest& request);

// What cache_command prints, ending with a newline, and `exit_code`. Errors are for standard error. `now`:
// for "5 min ago".
Expected<std::string> render_cache_command(const CacheRequest& request, const SnapshotCache& cache,
                                           std::time_t now, int& exit_code);

}  // namespace ktstr
