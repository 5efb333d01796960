#include "host/machine/kvm/coalesced_writes.h"

#include <algorithm>
#include <span>
#include <type_traits>

#include "host/machine/kvm/kvm_call.h"

namespace ktstr::kvm {
namespace {

constexpr std::size_t kPage = 4096;

std::uint32_t load(const std::uint32_t& index) {
  return __atomic_load_n(&index, __ATOMIC_ACQUIRE);
}

}  // namespace

Expected<void> CoalescedWrites::collect(Vm& vm, const Vcpu& vcpu, std::uint16_t port) {
  const int page = vm.capability(KVM_CAP_COALESCED_MMIO);
  if (page <= 0 || vm.capability(KVM_CAP_COALESCED_PIO) == 0) return {};
  if (vm.run_size() / kPage <= static_cast<std::size_t>(page)) return {};
  kvm_coalesced_mmio_zone zone = {};
  zone.addr = port;
  zone.size = 1;
  zone.pio = 1;
  if (auto set = KVM_CALL(vm.fd(), KVM_REGISTER_COALESCED_MMIO, &zone); !set)
    return std::unexpected(std::move(set.error()));
  ring_ = reinterpret_cast<Ring*>(reinterpret_cast<std::byte*>(&vcpu.run()) +
                                  static_cast<std::size_t>(page) * kPage);
  return {};
}

void CoalescedWrites::drain() {
  if (ring_ == nullptr || load(ring_->first) == load(ring_->last)) return;
  const std::lock_guard lock(mutex_);
  // Only what was there when we came: a vCPU that goes on writing must not hold up another one.
  const std::uint32_t end = load(ring_->last);
  std::uint32_t next = load(ring_->first);
  constexpr std::uint32_t kPlaces = std::extent_v<decltype(Ring::places)>;
  while (next != end && next < kPlaces) {
    const kvm_coalesced_mmio& write = ring_->places[next];
    const std::size_t size = std::min<std::size_t>(write.len, sizeof(write.data));
    ports_.write(write.phys_addr, std::as_bytes(std::span(write.data, size)));
    next = (next + 1) % kPlaces;
    __atomic_store_n(&ring_->first, next, __ATOMIC_RELEASE);
  }
}

}  // namespace ktstr::kvm
