// A whole kvm guest at rest but for its RAM: vCPUs, interrupt chips, clock and devices, out of a KvmGuest and
// into another one. kvm_state.cc explains the order.
#pragma once

#include "common/error.h"
#include "host/machine/kvm/guest_clock.h"
#include "host/machine/kvm/kvm_guest.h"

namespace ktstr::v1 {
class KvmState;
}

namespace ktstr::kvm {

// All vCPUs are parked and nobody serves devices; KVM's collected writes are carried out. `times`: the clock
// that is held. The guest is as it was afterwards. Errors: kHost.
Expected<void> save_kvm_state(KvmGuest& guest, const GuestTimes& times, v1::KvmState& to);

// Whether `state` is of a guest with these parts, as far as can be told before they are made: error kUsage
// that says what differs.
Expected<void> check_kvm_state(const v1::KvmState& state, std::span<const std::uint64_t> node_bytes,
                               std::span<const std::uint32_t> apic_ids, bool split_chip);

// Into a guest with the same parts that has never run: RAM is loaded, vCPUs have their CPUID and nothing
// else. `state` has passed check_kvm_state(). Returns the times, which GuestClock takes when the guest is to
// go on. Errors: kUsage for a state that a device cannot have, and for one of another processor; kHost when
// KVM does not take something.
Expected<GuestTimes> load_kvm_state(KvmGuest& guest, const v1::KvmState& state);

}  // namespace ktstr::kvm
