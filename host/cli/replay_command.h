// `ktstr-vm replay`: a deterministic run once more, held against what it gave then.
#pragma once

#include <string>

namespace ktstr {

struct ReplayRequest {
  std::string folder;   // of the run: where its result.json lies
  std::string out;      // --out; empty: beside the run's folder
  bool anyway = false;  // --anyway: run although inputs have changed
  bool verbose = false;
};

// Runs and prints; returns the process's exit code: 0 identical, 1 different, 2 the folder holds no
// deterministic run, 20 inputs are gone or have changed.
int replay_command(const ReplayRequest& request);

}  // namespace ktstr
