#include "host/run/guard.h"

#include <algorithm>

#include <fmt/format.h>

namespace ktstr {
namespace {

using std::chrono::nanoseconds;

double seconds(nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// a - b of guest times, never negative (frames are hostile input), clamped into nanoseconds.
nanoseconds guest_elapsed(std::uint64_t now, std::uint64_t since) {
  const std::uint64_t elapsed = now > since ? now - since : 0;
  return nanoseconds(static_cast<std::int64_t>(std::min<std::uint64_t>(elapsed, INT64_MAX)));
}

}  // namespace

std::optional<GuardTrip> Guard::look(const GuardSample& sample) {
  const nanoseconds still = std::max(sample.stood_still - last_stood_still_, nanoseconds(0));
  last_stood_still_ = std::max(last_stood_still_, sample.stood_still);
  // CPU time has no part in it.
  const nanoseconds lost = sample.host_time_is_cpu_time ? nanoseconds(0) : still;
  const nanoseconds host = std::max(sample.host_time - last_host_time_ - lost, nanoseconds(0));
  const nanoseconds waited = std::clamp(sample.vcpu_waited - last_waited_, nanoseconds(0), host);
  machine_time_ += host - waited;
  last_host_time_ = sample.host_time;
  last_waited_ = std::max(last_waited_, sample.vcpu_waited);
  if (sample.progress != last_progress_) {
    last_progress_ = sample.progress;
    last_progress_at_ = machine_time_;
  }

  if (auto trip = look_at_standstill(sample, still)) return trip;
  if (sample.phase == Session::Phase::kBye) {
    if (bye_at_ < nanoseconds(0)) bye_at_ = machine_time_;
    if (machine_time_ - bye_at_ > limits_.finish) {
      return GuardTrip{GuardTrip::Kind::kFinish,
                       fmt::format("the guest said goodbye but did not power off within {:.0f} s",
                                   seconds(limits_.finish))};
    }
    return std::nullopt;
  }
  if (sample.phase == Session::Phase::kBooting && machine_time_ > limits_.boot) {
    return GuardTrip{GuardTrip::Kind::kBoot,
                     fmt::format("no word from PID 1 within {:.0f} s", seconds(limits_.boot))};
  }
  if (machine_time_ - last_progress_at_ > limits_.silence) {
    return GuardTrip{GuardTrip::Kind::kSilence,
                     fmt::format("the guest has been silent for {:.0f} s: no frame, no console output",
                                 seconds(limits_.silence))};
  }
  return look_at_guest_time(sample);
}

std::optional<GuardTrip> Guard::look_at_standstill(const GuardSample& sample, nanoseconds still) {
  inactive_ += std::max(sample.real_time - last_real_time_ - still, nanoseconds(0));
  last_real_time_ = sample.real_time;
  if (sample.vcpu_active != last_active_) {
    last_active_ = sample.vcpu_active;
    inactive_ = nanoseconds(0);
  }
  // A kernel without CONFIG_SCHED_INFO tells nothing: then there is nothing to go by.
  const bool known = sample.vcpu_active > nanoseconds(0);
  if (!known || inactive_ <= limits_.standstill) return std::nullopt;
  return GuardTrip{
      GuardTrip::Kind::kStandstill,
      fmt::format("the machine has stood still for {:.0f} s of host time: it neither ran nor waited for a "
                  "host CPU",
                  seconds(limits_.standstill))};
}

std::optional<GuardTrip> Guard::look_at_guest_time(const GuardSample& sample) const {
  if (sample.scenario_end_ns != 0) {
    if (guest_elapsed(sample.guest_ns, sample.scenario_end_ns) > limits_.finish) {
      return GuardTrip{
          GuardTrip::Kind::kFinish,
          fmt::format("the guest did not finish within {:.0f} s of its own time after the scenario's end",
                      seconds(limits_.finish))};
    }
  } else if (sample.scenario_start_ns != 0) {
    if (guest_elapsed(sample.guest_ns, sample.scenario_start_ns) > limits_.scenario) {
      return GuardTrip{
          GuardTrip::Kind::kScenario,
          fmt::format("the scenario did not end within {:.0f} s of guest time", seconds(limits_.scenario))};
    }
  } else if (sample.plan_accepted_ns != 0 &&
             guest_elapsed(sample.guest_ns, sample.plan_accepted_ns) > limits_.attach) {
    return GuardTrip{
        GuardTrip::Kind::kAttach,
        fmt::format("the scenario did not begin within {:.0f} s of guest time", seconds(limits_.attach))};
  }
  return std::nullopt;
}

}  // namespace ktstr
