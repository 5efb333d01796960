// What an exploration tells: to a person, to scripts, and as an exit code.
#pragma once

#include <string>
#include <vector>

#include "host/explore/explore_state.h"
#include "host/explore/explorer.h"

namespace ktstr {

// The command that runs `seed` again: "ktstr-vm run <options> --deterministic=SEED".
std::vector<std::string> rerun_command(const ExploreHeader& header, std::uint64_t seed);

// Several lines, each ended by a newline: the groups, the most frequent first, each with the lines that
// replay it; the totals; and last the line for machines, "ktstr-vm explore: seeds=120 failures=3 groups=1
// folder=PATH".
std::string explore_summary(const ExploreState& state, const ExploreEnd& end);

// The same as data, for explore.json.
std::string explore_json(const ExploreState& state, const ExploreEnd& end);

// 0: seeds were run and none failed; 1: failures were found; 21: ended before a seed was done, or by a signal
// before a failure was found; otherwise what kTrouble says.
int explore_exit_code(const ExploreState& state, const ExploreEnd& end);

}  // namespace ktstr
