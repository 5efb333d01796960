// The clocks of a KVM guest, and how to hold them
// -----------------------------------------------
// A guest has two sources of time, and one of them is made from the other:
//
//   TSC        what RDTSC reads: the host's TSC plus an offset of the vCPU, which the hardware adds. It goes
//              on while the vCPU is parked.
//   kvm-clock  nanoseconds. Each vCPU has a page in guest memory into which KVM writes a line: "at TSC t it
//              was s, and a cycle lasts m". The guest reads its TSC and goes along the line (the kernel's
//              arch/x86/kernel/pvclock.c). So kvm-clock goes on with the TSC, and only a new line can hold
//              it back.
//
// KVM writes a new line into a vCPU's page when that vCPU next enters the guest (KVM_REQ_CLOCK_UPDATE in
// vcpu_enter_guest()), and a vCPU that is halted does not enter it until something wakes it.
//
// KVM_SET_CLOCK asks for new lines, so it seems to be all that is needed after a pause: set the clock to what
// KVM_GET_CLOCK said when the pause began. For the kernel it is, because the kernel reads the page of the CPU
// that it runs on. User space, in the vDSO, reads the page of vCPU 0 on any vCPU, as long as the page has the
// flag PVCLOCK_TSC_STABLE_BIT. If vCPU 1 enters the guest before vCPU 0, a program there takes the old line
// with a TSC that is later by the pause: CLOCK_MONOTONIC leaps. Then vCPU 0 enters, gets its new line, and
// the clock goes back. (Seen with a pause of 3 s in nested KVM, not every time: it is a race of two threads.)
// Besides, a TSC that goes on beside a kvm-clock that was held is a skew to the watchdog of clock sources.
//
// So the TSC is held too: each vCPU's offset is lowered by the cycles of the pause. Then both lines, the old
// one and the new one, give the same time, and it does not matter who reads which one when. A guest that
// takes its time from the TSC itself is held as well.
//
// The order, which is that of Documentation/virt/kvm/devices/vcpu.rst, section 4.1, without the part about
// time that is to be caught up:
//
//   hold     1. KVM_GET_CLOCK: kvmclock and the host's TSC of the same moment.
//            2. KVM_VCPU_TSC_OFFSET of each vCPU.
//   release  3. KVM_SET_CLOCK with the kvmclock of step 1.
//            4. KVM_GET_CLOCK again: where the clock has got since, and the host's TSC then.
//            5. KVM_VCPU_TSC_OFFSET: the same cycles less for all vCPUs.
//
// One amount for all, because KVM keeps one line for the whole machine ("master clock", which sets the flag
// above) only while the TSCs of all vCPUs have the same offset (kvm_track_tsc_matching()). Step 4 is there
// because nobody knows at which cycle KVM_SET_CLOCK took effect; a difference of a microsecond to the wrong
// side would be a clock that goes back by one.
//
// Without the master clock (the host's own clock is not the TSC, or TSCs differ) KVM_GET_CLOCK gives no TSC
// and the flag is not set: the vDSO then leaves the clock to the kernel, every vCPU reads its own page only,
// and KVM_SET_CLOCK is enough.
//
// Timers. A guest's APIC timer (TSC-deadline mode) is a timer of the host that KVM computed from the guest's
// TSC when it was set, so during a pause it comes due. That would be a harmless interrupt too early; but all
// vCPUs would get one after each pause. Writing the deadline again makes KVM compute anew, and takes back a
// timer that has come due meanwhile (kvm_set_lapic_tscdeadline_msr()).
//
// Watchdogs. They see no gap. KVM_KVMCLOCK_CTRL tells them of the pause all the same, for the case that only
// kvmclock was held.
//
// Before Linux 5.16 KVM has no KVM_VCPU_TSC_OFFSET and tells no TSC with the clock. There the TSC is written
// as an MSR, which has a trap: a value within a second of what KVM expects the TSC to be is taken for an
// attempt to synchronize it with the other vCPUs' and changes nothing (kvm_synchronize_tsc()). Hence the
// first vCPU is first written far away and then right, and the others follow it by that very rule. The time
// between the calls is lost to the TSC, not to kvmclock, so kvm-clock goes forward by some microseconds.
//
// Another VM. A clone is a guest whose pause ends in a VM that was made meanwhile, perhaps days later and
// after the host was started again, so the host's TSC says nothing and there is no offset to lower. What is
// kept is what the guest could have read at the moment of step 1: its kvmclock, and each vCPU's TSC (offset
// plus the host's TSC). The rest is the same: with "the host's TSC was 0 then, and the offset the guest's
// TSC" the sum of step 5 is the offset that makes the guest's TSC go on where it stood, less what
// KVM_SET_CLOCK has let kvmclock go on. The lines that lie in guest memory are those of the moment of saving
// and still right. A new VM has a master clock by the time of step 4 because KVM_SET_CLOCK works it out, and
// all vCPUs have got the same TSC when they were made.
#include "host/machine/kvm/guest_clock.h"

#include <utility>

#include "host/machine/kvm/kvm_call.h"

namespace ktstr::kvm {
namespace {

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrTscDeadline = 0x6e0;
constexpr std::uint64_t kFarAway = std::uint64_t{1} << 40;  // cycles: minutes

kvm_device_attr offset_attribute(std::uint64_t& offset) {
  kvm_device_attr attribute = {};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uintptr_t>(&offset);
  return attribute;
}

std::optional<std::uint64_t> tsc_offset(const Vcpu& vcpu) {
  std::uint64_t offset = 0;
  kvm_device_attr attribute = offset_attribute(offset);
  if (!KVM_CALL(vcpu.fd(), KVM_GET_DEVICE_ATTR, &attribute)) return std::nullopt;
  return offset;
}

Expected<void> set_tsc_offset(Vcpu& vcpu, std::uint64_t offset) {
  kvm_device_attr attribute = offset_attribute(offset);
  if (auto set = KVM_CALL(vcpu.fd(), KVM_SET_DEVICE_ATTR, &attribute); !set)
    return propagate(std::move(set.error()), "holding the guest's TSC");
  return {};
}

}  // namespace

std::uint64_t tsc_gap(const ClockMoment& held, const ClockMoment& now, std::uint64_t tsc_khz) {
  const std::uint64_t went_on = now.kvmclock > held.kvmclock ? now.kvmclock - held.kvmclock : 0;
  __extension__ using Wide = unsigned __int128;
  const auto cycles = static_cast<std::uint64_t>(Wide{went_on} * tsc_khz / 1'000'000);
  return now.host_tsc - held.host_tsc - cycles;
}

std::string_view GuestClock::described(Held held) {
  switch (held) {
    case Held::kNothing:
      return {};
    case Held::kClock:
      return "kvmclock";
    case Held::kClockAndTsc:
      return "kvmclock and the TSC, by its offset";
    case Held::kClockAndTscByValue:
      return "kvmclock and the TSC, by its value";
    case Held::kElsewhere:
      return "kvmclock and the TSC, of a snapshot";
  }
  return {};
}

GuestClock::Held GuestClock::hold(const Vm& vm, std::span<const Vcpu> vcpus) {
  held_ = Held::kNothing;
  // First, so that a clock read later is not behind it.
  const auto tsc = vcpus.front().msr(kMsrTsc);
  const auto now = vm.clock();
  if (!now) return held_;
  // KVM has rounded down.
  moment_ = {.kvmclock = now->clock + 1, .host_tsc = now->host_tsc};
  held_ = Held::kClock;
  if ((now->flags & KVM_CLOCK_TSC_STABLE) == 0) return held_;
  if (may_set_offsets_ && (now->flags & KVM_CLOCK_HOST_TSC) != 0 && hold_offsets(vcpus)) {
    held_ = Held::kClockAndTsc;
  } else if (tsc) {
    held_ = Held::kClockAndTscByValue;
    tsc_ = *tsc;
    vcpus_.assign(vcpus.size(), {});
  }
  for (std::size_t cpu = 0; held_ != Held::kClock && cpu < vcpus.size(); ++cpu)
    vcpus_[cpu].deadline = vcpus[cpu].msr(kMsrTscDeadline).value_or(0);
  return held_;
}

bool GuestClock::hold_offsets(std::span<const Vcpu> vcpus) {
  vcpus_.clear();
  for (const Vcpu& vcpu : vcpus) {
    const auto offset = tsc_offset(vcpu);
    if (!offset) return false;
    vcpus_.push_back({.tsc_offset = *offset});
  }
  return true;
}

Expected<GuestTimes> GuestClock::times(std::span<const Vcpu> vcpus) const {
  if (held_ == Held::kNothing)
    return fail(ErrorCode::kHost, "this host's KVM does not tell the guest's clock");
  GuestTimes times = {.kvmclock = moment_.kvmclock, .vcpus = {}};
  for (std::size_t cpu = 0; cpu < vcpus.size(); ++cpu) {
    GuestTimes::Vcpu& one = times.vcpus.emplace_back();
    if (held_ == Held::kClockAndTsc || held_ == Held::kElsewhere) {
      one = {.tsc = vcpus_[cpu].tsc_offset + moment_.host_tsc, .deadline = vcpus_[cpu].deadline};
    } else if (held_ == Held::kClockAndTscByValue) {
      one = {.tsc = tsc_, .deadline = vcpus_[cpu].deadline};
    } else {
      auto tsc = vcpus[cpu].msr(kMsrTsc);
      if (!tsc) return propagate(std::move(tsc.error()), "reading a vCPU's TSC");
      one = {.tsc = *tsc, .deadline = vcpus[cpu].msr(kMsrTscDeadline).value_or(0)};
    }
  }
  return times;
}

void GuestClock::hold_times(const GuestTimes& times) {
  held_ = Held::kElsewhere;
  moment_ = {.kvmclock = times.kvmclock, .host_tsc = 0};
  vcpus_.clear();
  for (const GuestTimes::Vcpu& vcpu : times.vcpus)
    vcpus_.push_back({.tsc_offset = vcpu.tsc, .deadline = vcpu.deadline});
}

Expected<void> GuestClock::release(Vm& vm, std::span<Vcpu> vcpus) {
  const Held held = std::exchange(held_, Held::kNothing);
  if (held == Held::kNothing) return {};
  if (auto set = vm.set_clock(moment_.kvmclock); !set) return set;
  if (held != Held::kClock) {
    auto set = held == Held::kElsewhere     ? go_on_elsewhere(vm, vcpus)
               : held == Held::kClockAndTsc ? set_back_tsc(vm, vcpus)
                                            : write_tsc(vcpus);
    if (!set) return set;
    for (std::size_t cpu = 0; cpu < vcpus.size(); ++cpu) {
      if (vcpus_[cpu].deadline == 0) continue;
      if (auto timer = vcpus[cpu].set_msr(kMsrTscDeadline, vcpus_[cpu].deadline); !timer)
        return propagate(std::move(timer.error()), "holding a vCPU's timer");
    }
  }
  for (Vcpu& vcpu : vcpus) vcpu.note_pause();
  return {};
}

Expected<void> GuestClock::set_back_tsc(const Vm& vm, std::span<Vcpu> vcpus) const {
  const auto now = vm.clock();
  if (!now) return std::unexpected(now.error());
  // The host has lost its trust in the TSC meanwhile: as without a master clock.
  if ((now->flags & KVM_CLOCK_HOST_TSC) == 0) return {};
  const auto khz = KVM_CALL(vcpus.front().fd(), KVM_GET_TSC_KHZ, 0);
  const std::uint64_t gap = tsc_gap(moment_, {.kvmclock = now->clock, .host_tsc = now->host_tsc},
                                    khz ? static_cast<std::uint64_t>(*khz) : 0);
  for (std::size_t cpu = 0; cpu < vcpus.size(); ++cpu) {
    if (auto set = set_tsc_offset(vcpus[cpu], vcpus_[cpu].tsc_offset - gap); !set) return set;
  }
  return {};
}

Expected<void> GuestClock::go_on_elsewhere(const Vm& vm, std::span<Vcpu> vcpus) const {
  const auto now = vm.clock();
  const bool with_offsets = may_set_offsets_ && now && (now->flags & KVM_CLOCK_HOST_TSC) != 0 &&
                            tsc_offset(vcpus.front()).has_value();
  if (with_offsets) return set_back_tsc(vm, vcpus);
  // For the same reason as in write_tsc().
  if (auto set = vcpus.front().set_msr(kMsrTsc, vcpus_.front().tsc_offset + kFarAway); !set) return set;
  for (std::size_t cpu = 0; cpu < vcpus.size(); ++cpu) {
    if (auto set = vcpus[cpu].set_msr(kMsrTsc, vcpus_[cpu].tsc_offset); !set) return set;
  }
  return {};
}

Expected<void> GuestClock::write_tsc(std::span<Vcpu> vcpus) const {
  if (auto set = vcpus.front().set_msr(kMsrTsc, tsc_ + kFarAway); !set) return set;
  for (Vcpu& vcpu : vcpus) {
    if (auto set = vcpu.set_msr(kMsrTsc, tsc_); !set) return set;
  }
  return {};
}

}  // namespace ktstr::kvm
