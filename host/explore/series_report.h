// What a series of runs came to.
#pragma once

#include <span>
#include <string>

#include "host/explore/run_series.h"

namespace ktstr {

// The run whose exit code counts: what was found of kernel and scheduler before what kept a run from finding
// anything, and that before a pass; nothing for no runs. Runs that were not started do not count unless all
// are such.
const SeriesOutcome* worst_of(std::span<const SeriesOutcome> outcomes);

// A line for each run, and below it what runs without a result have printed.
std::string series_table(std::span<const SeriesOutcome> outcomes);

// final_line() of the worst run, with "runs=6 passed=5" before its result=.
std::string series_final_line(std::span<const SeriesOutcome> outcomes);

}  // namespace ktstr
