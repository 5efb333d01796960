// Explorer: runs a scenario under one seed after the other, several at a time, until there is a reason to
// end.
//
// Every seed is a process of its own, `ktstr-vm run <options> --deterministic=SEED --out FOLDER/runs/SEED`:
// what goes wrong in one run cannot touch the others, and what explore finds is what the user gets when he
// types the same command. The folder of a seed that passed is removed when it is done; of every group of
// equal failures the first few are kept.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "common/error.h"
#include "host/explore/explore_state.h"
#include "host/report/status_line.h"

namespace ktstr {

struct ExploreOptions {
  std::string program;                // the program that has the command `run`
  std::uint64_t seeds = 0;            // seeds in all, those of earlier sessions included; 0: no limit
  std::chrono::nanoseconds budget{};  // host time of this session after which no seed is started; 0: no limit
  unsigned jobs = 1;                  // runs at a time, at least 1
  bool until_failure = false;         // end at the first failure that this session finds
  bool live = false;                  // the status line is rewritten in place
};

// How an exploration ended.
struct ExploreEnd {
  enum class Why {
    kSeedsDone,
    kBudget,   // the time is over
    kFailure,  // until_failure
    kSignal,   // SIGINT or SIGTERM
    kTrouble,  // going on makes no sense: `exit_code` and `message` say why
  };
  Why why = Why::kSeedsDone;
  // kTrouble: exit code for our own process.
  int exit_code = 0;
  // kTrouble: what the run said, or what we could not do; several lines. kSignal: the signal's name.
  std::string message;
  // Host time of this session, and the seeds that were done in it.
  std::chrono::nanoseconds wall{};
  std::uint64_t seeds = 0;
};

// "seeds-done", "budget", ...
const char* name_of(ExploreEnd::Why why);

// Explores until the end. SIGINT and SIGTERM are handled while it runs: the first one is passed on to the
// runs, the second one too (which makes them end at once), the third kills them. `state` gets every finished
// seed, runs that we ended ourselves excepted.
ExploreEnd explore(ExploreState& state, const ExploreOptions& options, StatusLine& status);

}  // namespace ktstr
