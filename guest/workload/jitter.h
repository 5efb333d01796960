// Jitter: a seeded disturbance, so that deterministic runs with different seeds take different courses.
//
// Only what happens on the CPUs counts: the phase between their timer ticks, and which worker runs first. So
// before the scenario every CPU is kept busy for a number of instructions of its own, and every worker spins
// for a number of its own behind the gate.
#pragma once

#include <cstdint>

namespace ktstr::guest {

// Spins on every online CPU in turn, for 0 to 2^20 rounds (some 4 ms of an instruction clock of 4 ns). The
// calling thread's affinity is restored.
void jitter_cpus(std::uint64_t seed);

// What worker number `worker` does behind the gate, 0 to 2^16 rounds; nothing for seed 0.
void jitter_worker(std::uint64_t seed, std::uint64_t worker);

}  // namespace ktstr::guest
