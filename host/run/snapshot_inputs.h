// What the guest of a run depends on, for the snapshot cache: host/snapshot/snapshot_key.h says what for.
#pragma once

#include "common/error.h"
#include "host/machine/machine.h"
#include "host/run/prepare.h"
#include "host/snapshot/snapshot_key.h"

namespace ktstr {

// Everything, the scheduler's files and arguments too; `point` is still to be chosen. `machine` is one that
// would boot `prepared`. Error kHost when a file cannot be read.
Expected<SnapshotInputs> snapshot_inputs(const Prepared& prepared, const Machine& machine);

// The kernel's command line without what was measured on this host: the delay loop's speed is never the same
// twice, and a guest that was kept need not measure anything any more.
std::string lasting_command_line(const KernelCommandLine& line);

}  // namespace ktstr
