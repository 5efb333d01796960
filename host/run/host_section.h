// What a result says of its execution: where it ran, on what, and where the time went (proto/result.proto,
// HostSection).
#pragma once

#include "host/machine/machine.h"
#include "host/run/attempt.h"
#include "host/run/prepare.h"
#include "host/run/run_request.h"
#include "proto/result.pb.h"

namespace ktstr {

// The start of the run, its command and this host. Phases and warnings of `prepared` come first.
void describe_host(ktstr::v1::HostSection& host, const RunRequest& request, const Prepared& prepared);
// The machine of an attempt, with its warnings until now.
void describe_machine(ktstr::v1::HostSection& host, const Machine& machine, const Prepared& prepared);
// The warnings that a machine got while it was started, ran and was stopped.
void add_later_warnings(ktstr::v1::HostSection& host, const Machine& machine);
// Where the time went, from the host's milestones and the guest's own clock. The guest of a clone has not
// booted.
void add_run_phases(ktstr::v1::HostSection& host, const Attempt& attempt, bool clone);
// What the machine counted.
void describe_statistics(const Attempt& attempt, ktstr::v1::MachineStatistics& statistics);

}  // namespace ktstr
