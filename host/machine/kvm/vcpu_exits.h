// VcpuExits: what to do when a vCPU comes back from guest mode.
//
// Most exits are a device's: they are answered on the spot, on the vCPU's thread. What concerns the machine
// as a whole is told as an ending or a trap, and the vCPU parks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/machine/kvm/kvm_guest.h"
#include "host/machine/kvm/kvm_requests.h"
#include "host/machine/kvm/kvm_traps.h"
#include "host/machine/kvm/vcpu_threads.h"

namespace ktstr::kvm {

// Why the guest cannot go on.
enum class GuestEnd {
  kPoweredOff,
  kReset,
  kTripleFault,  // a fault in the handler of a fault's fault: a kernel that has lost its tables
  kFailed,       // KVM cannot go on; `detail` of the callback says why
};

struct ExitCallbacks {
  std::function<void(std::uint32_t cpu, GuestEnd end, std::string detail)> ended;
  std::function<void(std::uint32_t cpu, const TrapHit& hit)> trapped;
};

// Thread-safe as far as vCPUs differ. `guest` and `traps` outlive it; the traps change only while all vCPUs
// are parked.
class VcpuExits {
 public:
  VcpuExits(KvmGuest& guest, const KvmTraps& traps, ExitCallbacks callbacks);

  // Of VcpuThreads.
  VcpuThreads::Next handle(Vcpu& vcpu, int error);

  // Exits to us so far, all vCPUs together: ("serial", 120), ("nobody", 3), ...; those that never came are
  // left out. Any thread.
  std::vector<MachineStatistics::Counter> counts() const;

 private:
  // Kinds of exits that are counted apart, besides the devices.
  enum Kind : std::size_t { kNobody, kTrap, kInterrupted, kRetried, kOther, kKinds };

  VcpuThreads::Next port_io(Vcpu& vcpu);
  VcpuThreads::Next memory_io(Vcpu& vcpu);
  VcpuThreads::Next debug(Vcpu& vcpu);
  VcpuThreads::Next triple_fault(Vcpu& vcpu);
  VcpuThreads::Next system_event(Vcpu& vcpu);
  VcpuThreads::Next internal_error(Vcpu& vcpu);
  VcpuThreads::Next end(Vcpu& vcpu, GuestEnd end, std::string detail);
  void count(const BusDevice* device);
  void count(Kind kind) { kinds_[kind].fetch_add(1, std::memory_order_relaxed); }

  KvmGuest& guest_;
  const KvmTraps& traps_;
  const ExitCallbacks callbacks_;
  std::array<const BusDevice*, 5> devices_;  // nullptr: this guest has none
  std::array<std::atomic<std::uint64_t>, 5> device_exits_ = {};
  std::array<std::atomic<std::uint64_t>, kKinds> kinds_ = {};
};

// "rip 0xffffffff81000000 rsp ... code 0f 0b ...", one line: of a vCPU that has failed.
std::string describe_vcpu(const Vcpu& vcpu);

}  // namespace ktstr::kvm
