// Guard: decides that a guest hangs.
//
// Host seconds alone are a bad measure: on an overloaded host a healthy guest is slow, and a run must not
// fail for that. The guard counts "machine time": host time less the time in which the vCPUs were runnable
// and waited for a host CPU
// (/proc/<pid>/task/<tid>/schedstat). Where the guest tells its own time (frames carry CLOCK_MONOTONIC) the
// limits of the scenario count that. Nor does it count while we keep the guest frozen, for a dump, or for
// seconds to write a core. A deterministic guest has no time but its own: there machine time is the
// CPU time that the emulator has used for it, and a machine that does nothing at all is a fault of the host.
// Pure logic, fed by the runner's timer; no clock is read here.
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
  // Guest time from ScenarioEnd to Bye; also machine time from Bye to power-off.
  std::chrono::nanoseconds finish{};
  // Host time in which the machine neither ran nor waited for a host CPU.
  std::chrono::nanoseconds standstill = std::chrono::seconds(120);
};

// What the runner sees at one moment.
struct GuardSample {
  // What advances machine time: host time since the start of the machine, or, where the guest's clock counts
  // instructions, the CPU time its vCPUs have used.
  std::chrono::nanoseconds host_time{};
  bool host_time_is_cpu_time = false;
  std::chrono::nanoseconds vcpu_waited{};  // Machine::VcpuTime::waited; 0 where host_time is CPU time
  std::chrono::nanoseconds real_time{};    // host time since the start of the machine, in either case
  // How much of real_time we kept the machine standing still for dumps and traps: it counts for nothing.
  std::chrono::nanoseconds stood_still{};
  std::chrono::nanoseconds vcpu_active{};  // Machine::VcpuTime::used + waited
  std::uint64_t progress = 0;              // grows with every frame and console byte
  Session::Phase phase = Session::Phase::kBooting;
  std::uint64_t guest_ns = 0;
  std::uint64_t plan_accepted_ns = 0;
  std::uint64_t scenario_start_ns = 0;
  std::uint64_t scenario_end_ns = 0;
};

// Why the guard gave up.
struct GuardTrip {
  enum class Kind { kBoot, kSilence, kAttach, kScenario, kFinish, kStandstill };
  Kind kind = Kind::kSilence;
  std::string text;
};

class Guard {
 public:
  explicit Guard(const GuardLimits& limits) : limits_(limits) {}
  // Looks at one sample; samples come in order of time, some four a second.
  std::optional<GuardTrip> look(const GuardSample& sample);
  // The part of `look` that depends on nothing but what the guest has sent: deterministic runs ask at every
  // frame, so that they end at the same one.
  std::optional<GuardTrip> look_at_guest_time(const GuardSample& sample) const;
  // Machine time so far.
  std::chrono::nanoseconds machine_time() const { return machine_time_; }

 private:
  std::optional<GuardTrip> look_at_standstill(const GuardSample& sample, std::chrono::nanoseconds still);

  GuardLimits limits_;
  std::chrono::nanoseconds machine_time_{};
  std::chrono::nanoseconds last_host_time_{};
  std::chrono::nanoseconds last_real_time_{};
  std::chrono::nanoseconds last_stood_still_{};
  std::chrono::nanoseconds last_waited_{};
  std::chrono::nanoseconds last_progress_at_{};
  std::chrono::nanoseconds bye_at_{-1};
  std::uint64_t last_progress_ = 0;
  std::chrono::nanoseconds last_active_{-1};
  std::chrono::nanoseconds inactive_{};  // since vcpu_active last changed
};

}  // namespace ktstr
