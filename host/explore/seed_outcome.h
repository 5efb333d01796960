// What one finished `ktstr-vm run` of an exploration left behind, read back.
#pragma once

#include <filesystem>

#include "host/explore/findings.h"

namespace ktstr {

struct SeedOutcome {
  // Without wall_ms and folder, which the Explorer knows.
  SeedRecord record;
  // The run says that a signal ended it.
  bool interrupted = false;
  // Folder of the run; empty: it made none.
  std::filesystem::path run_folder;
};

// `results`: the results folder that the run was given. A result that is missing, larger than 64 MiB or no
// result at all makes a failure of the kind "no-result"; it is never an error.
SeedOutcome read_outcome(std::uint64_t seed, int exit_code, const std::filesystem::path& results);

}  // namespace ktstr
