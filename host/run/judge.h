// Judge: from everything that was seen to one verdict.
//
// Several things can be true of one run: the kernel panicked *and* the scheduler had died before *and* the
// guest fell silent. The verdict is the one that explains the others; all of them become reasons, the
// deciding one first. The order:
//   1. the emulator's own fault (never blamed on the kernel), PID 1's own crash
//   2. panic or oops on the console; before Hello it means that the kernel did not reach PID 1
//   3. a stop by the user
//   4. the machine itself failed; the guest reset or switched itself off without a goodbye
//   5. a time-out
//   6. what the guest says of itself; a lock-up message turns its pass into a hang, lost frames into
//   "inconclusive"
// A run passes only when the guest said so, the scenario's end was seen, and nothing was lost.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "host/machine/machine.h"
#include "host/run/console_scanner.h"
#include "host/run/guard.h"
#include "host/run/session.h"
#include "proto/result.pb.h"

namespace ktstr {

struct Evidence {
  const Session& session;
  const ConsoleScanner& console;
  std::optional<MachineEvent> machine_end;  // how the machine ended by itself
  std::optional<GuardTrip> guard_trip;
  std::string interrupted_by;     // "SIGINT", "SIGTERM", ""
  std::string expected_build_id;  // of the image; "" unknown
  // The CPUs are an emulator's, which has errors of its own.
  bool emulated = true;
  // What the scheduler failed of, when the run was ended at its freeze; "" when it was not.
  std::string stopped_at_freeze = {};
};

struct Judgement {
  ktstr::v1::Verdict verdict = ktstr::v1::INCONCLUSIVE;
  std::vector<ktstr::v1::Reason> reasons;
  bool partial = false;
  // The emulator broke the kernel; the run can be repeated.
  bool emulator_fault = false;
};

Judgement judge(const Evidence& evidence);

}  // namespace ktstr
