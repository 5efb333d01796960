#include "host/machine/kvm/devices/bus.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace ktstr::kvm {

bool Bus::add(std::uint64_t start, std::uint64_t size, BusDevice& device) {
  if (size == 0 || size - 1 > std::numeric_limits<std::uint64_t>::max() - start) return false;
  const std::uint64_t last = start + (size - 1);
  const auto next = ranges_.lower_bound(start);
  if (next != ranges_.end() && next->first <= last) return false;
  if (next != ranges_.begin()) {
    const auto& [previous, range] = *std::prev(next);
    if (start - previous < range.size) return false;
  }
  ranges_.emplace(start, Range{.size = size, .device = &device});
  return true;
}

const std::pair<const std::uint64_t, Bus::Range>* Bus::find(std::uint64_t address, std::size_t size) const {
  const auto next = ranges_.upper_bound(address);
  if (next == ranges_.begin()) return nullptr;
  const auto& entry = *std::prev(next);
  const std::uint64_t offset = address - entry.first;
  if (offset >= entry.second.size || size > entry.second.size - offset) return nullptr;
  return &entry;
}

BusDevice* Bus::read(std::uint64_t address, std::span<std::byte> data) const {
  const auto* entry = find(address, data.size());
  if (entry == nullptr) {
    std::ranges::fill(data, std::byte{0xff});
    return nullptr;
  }
  entry->second.device->read(address - entry->first, data);
  return entry->second.device;
}

BusDevice* Bus::write(std::uint64_t address, std::span<const std::byte> data) const {
  const auto* entry = find(address, data.size());
  if (entry == nullptr) return nullptr;
  entry->second.device->write(address - entry->first, data);
  return entry->second.device;
}

}  // namespace ktstr::kvm
