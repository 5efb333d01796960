// Several runs, each a ktstr-vm process of its own with a guest of its own: --repeat, several --scenario,
// --jobs.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "host/report/status_line.h"
#include "proto/result.pb.h"

namespace ktstr {

// A run that is wanted.
struct SeriesRun {
  std::string scenario;                // as the user named it
  std::vector<std::string> arguments;  // behind `ktstr-vm run`
};

// How one ended.
struct SeriesOutcome {
  std::string scenario;
  bool started = false;
  int exit_code = 0;  // 20 when a signal ended the process
  // Out of its result.json; empty when there is none.
  ktstr::v1::RunResult result;
  std::string result_path;
  // What it printed, when it left no result.
  std::string words;
  std::chrono::nanoseconds took{};
};

// Runs all of them, `jobs` at a time, in this order. SIGINT and SIGTERM end the ones under way, in good order
// at first, at once the second time; those that were not started stay so. One outcome for each run. `program`
// has the command `run`.
std::vector<SeriesOutcome> run_series(const std::string& program, const std::vector<SeriesRun>& runs,
                                      unsigned jobs, StatusLine& status);

}  // namespace ktstr
