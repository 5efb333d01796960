// GuestRamView: guest RAM as a device sees it: by guest-physical address, bounds-checked, for reading and
// writing.
//
// Devices and the guest use the same bytes at the same time. So values are copied, each once, and what is
// checked is the copy; the few that synchronise the two sides (indices of a virtqueue) are loaded and stored
// atomically with the order that the virtio specification asks for (1.2, 2.7.13 and 2.7.14).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "host/machine/machine.h"

namespace ktstr::kvm {

// Cheap to copy; the RAM must outlive it.
class GuestRamView {
 public:
  GuestRamView() = default;
  // Ascending by address, without overlap.
  explicit GuestRamView(std::vector<RamRegion> regions) : regions_(std::move(regions)) {}

  // False, with nothing copied, when any byte is no RAM. Ranges may cross from one region into an adjacent
  // one.
  bool read(std::uint64_t gpa, std::span<std::byte> out) const;
  bool write(std::uint64_t gpa, std::span<const std::byte> bytes) const;
  // Whether all of the range is RAM; an empty range is.
  bool contains(std::uint64_t gpa, std::uint64_t size) const;
  // The bytes of a range that lies in one region; empty when it does not. For system calls that take memory
  // (a read(2) into the guest's buffer), never for looking at values.
  std::span<std::byte> bytes(std::uint64_t gpa, std::uint64_t size) const;

  // An aligned 16-bit value; false when it is no RAM or not aligned.
  bool load_acquire(std::uint64_t gpa, std::uint16_t& value) const;
  bool store_release(std::uint64_t gpa, std::uint16_t value) const;

 private:
  std::vector<RamRegion> regions_;
};

}  // namespace ktstr::kvm
