// The buses of a kvm machine: which device answers at an I/O port or at a guest-physical address.
//
// A vCPU that touches a device leaves KVM_RUN and calls the device on its own thread, any number of them at
// once. Devices lock for themselves. What nobody answers reads as all ones and swallows writes, as on a PC.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <utility>

namespace ktstr::kvm {

// A device on a bus. `offset` is from the start of its range; `data` has the 1, 2, 4 or 8 bytes of the access
// (KVM splits larger ones), all within the range. Thread-safe.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  // Of log lines and of the count of exits, e.g. "serial".
  virtual std::string_view name() const = 0;
  virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

// Ranges do not overlap. Filled before the vCPUs run, only read afterwards. Does not own the devices.
class Bus {
 public:
  // False when the range overlaps another one or wraps.
  bool add(std::uint64_t start, std::uint64_t size, BusDevice& device);
  // The device that answered, nullptr: none did (an access that goes beyond the end of a range is answered by
  // none).
  BusDevice* read(std::uint64_t address, std::span<std::byte> data) const;
  BusDevice* write(std::uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Range {
    std::uint64_t size = 0;
    BusDevice* device = nullptr;
  };
  const std::pair<const std::uint64_t, Range>* find(std::uint64_t address, std::size_t size) const;
  std::map<std::uint64_t, Range> ranges_;  // by start
};

// An interrupt line into the guest's I/O APIC. Thread-safe.
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  // One edge.
  virtual void trigger() = 0;
};

}  // namespace ktstr::kvm
