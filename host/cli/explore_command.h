// `ktstr-vm explore`: a scenario under many seeds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "host/run/run_request.h"

namespace ktstr {

struct ExploreRequest {
  std::uint64_t seeds = 0;                  // --seeds; 0: not given
  std::string budget;                       // --budget: "30m"; empty: not given
  unsigned jobs = 0;                        // --jobs; 0: one per host CPU
  std::optional<std::uint64_t> first_seed;  // --first-seed
  bool until_failure = false;               // --until-failure
  std::string resume;                       // --resume: folder of an earlier exploration
  RunRequest run;                           // the options of run
};

// Adds the options that explore has beside those of run; parsing fills `request`, which must outlive
// `command`.
void add_explore_options(CLI::App& command, ExploreRequest& request);

// Explores and prints; returns the process's exit code. `program`: what is started for each seed. Resuming
// changes the working directory to the one the exploration was started in.
int explore_command(const ExploreRequest& request, const std::string& program = "/proc/self/exe");

}  // namespace ktstr
