// GuestClock: holds the time of a guest while its vCPUs are parked, so that after a pause it goes on where it
// stood. guest_clock.cc explains KVM's clocks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/machine/kvm/vcpu.h"
#include "host/machine/kvm/vm.h"

namespace ktstr::kvm {

// A moment: the guest's kvmclock and the host's TSC at the same time.
struct ClockMoment {
  std::uint64_t kvmclock = 0;  // ns
  std::uint64_t host_tsc = 0;  // cycles
};

// By how many cycles the guest's TSC has to be set back, so that its readings again belong to those of
// kvmclock as they did at `held`: the cycles that went by, less those that kvmclock has gone on since it was
// set to `held.kvmclock`. `tsc_khz`: of the guest. Rounded so that kvmclock does not lose a nanosecond.
std::uint64_t tsc_gap(const ClockMoment& held, const ClockMoment& now, std::uint64_t tsc_khz);

// What a guest's clocks said at one moment, for going on from there in another VM.
struct GuestTimes {
  std::uint64_t kvmclock = 0;  // ns
  struct Vcpu {
    std::uint64_t tsc = 0;
    std::uint64_t deadline = 0;  // of its APIC timer, a value of its TSC; 0: none
    bool operator==(const Vcpu&) const = default;
  };
  std::vector<Vcpu> vcpus;
  bool operator==(const GuestTimes&) const = default;
};

class GuestClock {
 public:
  enum class Held {
    kNothing,
    kClock,               // kvmclock alone; enough where no vCPU reads the clock page of another one
    kClockAndTsc,         // and the TSC, by the vCPUs' offsets
    kClockAndTscByValue,  // and the TSC, by writing it: a KVM without KVM_VCPU_TSC_OFFSET (Linux before 5.16)
    kElsewhere,           // of another VM, by hold_times(): both
  };

  // For PauseReport::clock_held.
  static std::string_view described(Held held);

  // For tests: as on a KVM without KVM_VCPU_TSC_OFFSET.
  explicit GuestClock(bool may_set_offsets = true) : may_set_offsets_(may_set_offsets) {}

  // All vCPUs are parked. A KVM that does not tell its clock: nothing is held.
  Held hold(const Vm& vm, std::span<const Vcpu> vcpus);
  // The moment that is held; where only kvmclock is, with the TSCs of now. Error kHost: nothing is held.
  Expected<GuestTimes> times(std::span<const Vcpu> vcpus) const;
  // Holds the moment of a guest that another VM had, for vCPUs that have never run. As many as there are
  // vCPUs.
  void hold_times(const GuestTimes& times);
  // Lets the guest's time go on; nothing when it is not held. All vCPUs are still parked. Error kHost: KVM
  // does not take what it gave; the clocks have then jumped, and are not held any more.
  Expected<void> release(Vm& vm, std::span<Vcpu> vcpus);

 private:
  // Of one vCPU, as it was held.
  struct VcpuTime {
    std::uint64_t tsc_offset = 0;  // cycles, added to the host's TSC; kElsewhere: the TSC itself
    std::uint64_t deadline = 0;    // of its APIC timer, a value of its TSC; 0: none
  };

  bool hold_offsets(std::span<const Vcpu> vcpus);
  Expected<void> set_back_tsc(const Vm& vm, std::span<Vcpu> vcpus) const;
  Expected<void> write_tsc(std::span<Vcpu> vcpus) const;
  Expected<void> go_on_elsewhere(const Vm& vm, std::span<Vcpu> vcpus) const;

  bool may_set_offsets_;
  Held held_ = Held::kNothing;
  ClockMoment moment_;
  std::uint64_t tsc_ = 0;  // of the first vCPU; kClockAndTscByValue
  std::vector<VcpuTime> vcpus_;
};

}  // namespace ktstr::kvm
