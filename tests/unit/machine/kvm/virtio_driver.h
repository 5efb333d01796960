// A guest's driver of the virtio console, as instructions: brings the device up, and one output queue of four
// places with one kick.
#pragma once

#include <cstdint>

#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm/machine_code.h"

namespace ktstr::kvm::tiny {

// Where the queue and a buffer are.
inline constexpr std::uint64_t kDescriptors = 0x200000, kAvailable = 0x201000, kUsed = 0x202000,
                               kBuffer = 0x203000;
inline constexpr std::uint32_t kQueueSize = 4;
inline constexpr std::uint32_t kOutputQueue = 1;

struct Queue {
  std::uint64_t descriptors = kDescriptors, available = kAvailable, used = kUsed;
  std::uint32_t size = kQueueSize;
};

// Registers and bits of the status: virtio 1.2, 4.2.2 and 2.1.
inline MachineCode& write_driver(MachineCode& code, const Queue& queue) {
  constexpr std::uint64_t kDriverFeatures = 0x20, kDriverFeaturesSel = 0x24, kQueueSel = 0x30,
                          kQueueNum = 0x38, kQueueReady = 0x44, kQueueNotify = 0x50, kStatus = 0x70,
                          kQueueDesc = 0x80, kQueueDriver = 0x90, kQueueDevice = 0xa0;
  constexpr std::uint32_t kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8;
  const auto set = [&code](std::uint64_t at, std::uint32_t value) {
    code.store32(kVirtioMmioGpa + at, value);
  };
  const auto set_address = [&set](std::uint64_t at, std::uint64_t value) {
    set(at, static_cast<std::uint32_t>(value));
    set(at + 4, static_cast<std::uint32_t>(value >> 32));
  };
  set(kStatus, kAcknowledge);
  set(kStatus, kAcknowledge | kDriver);
  set(kDriverFeaturesSel, 1);
  set(kDriverFeatures, 1);  // VERSION_1
  set(kStatus, kAcknowledge | kDriver | kFeaturesOk);
  set(kQueueSel, kOutputQueue);
  set(kQueueNum, queue.size);
  set_address(kQueueDesc, queue.descriptors);
  set_address(kQueueDriver, queue.available);
  set_address(kQueueDevice, queue.used);
  set(kQueueReady, 1);
  set(kStatus, kAcknowledge | kDriver | kFeaturesOk | kDriverOk);
  set(kQueueNotify, kOutputQueue);
  return code;
}

}  // namespace ktstr::kvm::tiny
