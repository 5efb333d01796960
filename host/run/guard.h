// Guard: decides that a guest hangs.
//
// Host seconds alone are a bad measure: on an overloaded host a healthy guest is slow, and a run must not
// fail for that. The guard counts "machine time": host time less the time in which the vCPUs were runnable
// and waited for a host CPU
// (/proc/<pid>/task/<tid>/schedstat). Where the guest tells its own time (frames carry CLOCK_MONOTONIC) the
// limits of the scenario count that. Pure logic, fed by the runner's timer; no clock is read here.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "host/run/session.h"

namespace ktstr {

struct GuardLimits {
  std::chrono::nanoseconds boot{};      // machine time until Hello
  std::chrono::nanoseconds silence{};   // machine time without a frame or console byte
  std::chrono::nanoseconds attach{};    // guest time from the plan to ScenarioStart
  std::chrono::nanoseconds scenario{};  // guest time from ScenarioStart to ScenarioEnd
  std::chrono::nanoseconds
      finish{};  // guest time from ScenarioEnd to Bye; also machine time from Bye to power-off
};

// What the runner sees at one moment.
struct GuardSample {
  std::chrono::nanoseconds host_time{};    // since the start of the machine
  std::chrono::nanoseconds vcpu_waited{};  // Machine::VcpuTime::waited
  std::uint64_t progress = 0;              // grows with every frame and console byte
  Session::Phase phase = Session::Phase::kBooting;
  std::uint64_t guest_ns = 0;
  std::uint64_t plan_accepted_ns = 0;
  std::uint64_t scenario_start_ns = 0;
  std::uint64_t scenario_end_ns = 0;
};

// Why the guard gave up.
struct GuardTrip {
  enum class Kind { kBoot, kSilence, kAttach, kScenario, kFinish };
  Kind kind = Kind::kSilence;
  std::string text;
};

class Guard {
 public:
  explicit Guard(const GuardLimits& limits) : limits_(limits) {}
  // Looks at one sample; samples come in order of time, some four a second.
  std::optional<GuardTrip> look(const GuardSample& sample);
  // Machine time so far.
  std::chrono::nanoseconds machine_time() const { return machine_time_; }

 private:
  std::optional<GuardTrip> look_at_guest_time(const GuardSample& sample) const;

  GuardLimits limits_;
  std::chrono::nanoseconds machine_time_{};
  std::chrono::nanoseconds last_host_time_{};
  std::chrono::nanoseconds last_waited_{};
  std::chrono::nanoseconds last_progress_at_{};
  std::chrono::nanoseconds bye_at_{-1};
  std::uint64_t last_progress_ = 0;
};

}  // namespace ktstr
