// CoalescedWrites: writes to a port that KVM collects in a ring instead of coming back to us for each.
//
// A kernel that prints on a serial port writes one character after the other, and each would cost an exit to
// user space. For ports named here KVM notes the write in a ring of 170 places, a page that it shares with
// us, and goes on (api.rst 4.116; KVM_CAP_COALESCED_PIO). When the ring is full, the next write is an
// ordinary exit.
//
// What keeps this in order. One ring serves all vCPUs, in the order of the writes. Every exit of any vCPU
// empties it before it is answered (VcpuExits), so a device sees what came before an access before that
// access: the driver reads the line status after each 16 characters, and the interrupt's cause after each
// burst. A reader that finds the ring empty may rely on the writes having been carried out, because a place
// is given back only afterwards.
//
// What keeps this from losing the last words of a kernel. A panicking kernel prints and then resets or halts:
// a reset, a power-off, a triple fault and a failure of KVM are exits. Halted or spinning vCPUs are not; so
// the machine also empties the ring whenever it holds the vCPUs, before it ends, and several times a second
// while it runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "common/error.h"
#include "host/machine/kvm/devices/bus.h"
#include "host/machine/kvm/vcpu.h"
#include "host/machine/kvm/vm.h"

namespace ktstr::kvm {

class CoalescedWrites {
 public:
  // Nothing is collected yet.
  explicit CoalescedWrites(const Bus& ports) : ports_(ports) {}
  CoalescedWrites(const CoalescedWrites&) = delete;
  CoalescedWrites& operator=(const CoalescedWrites&) = delete;

  // From now on writes of one byte to `port` are collected. No error where the host cannot: they stay exits.
  // `vcpu` must outlive this: the ring is behind its shared page (that of any vCPU does).
  Expected<void> collect(Vm& vm, const Vcpu& vcpu, std::uint16_t port);

  // Carries out what is in the ring at the time of the call. Any thread.
  void drain();

 private:
  // struct kvm_coalesced_mmio_ring, whose flexible array lies elsewhere in C++ than in C.
  struct Ring {
    std::uint32_t first = 0;  // we write it
    std::uint32_t last = 0;   // KVM writes it
    kvm_coalesced_mmio places[(4096 - 8) / sizeof(kvm_coalesced_mmio)] = {};
  };

  const Bus& ports_;
  Ring* ring_ = nullptr;  // not there: nothing is collected
  std::mutex mutex_;      // of taking out
};

}  // namespace ktstr::kvm
