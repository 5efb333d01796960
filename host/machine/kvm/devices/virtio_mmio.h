// VirtioMmio: a virtio device as a page of memory-mapped registers (virtio 1.2, section 4.2, version 2 of the
// transport; the legacy one is not offered).
//
// The driver's way up, each step a write to Status that keeps the bits before it: ACKNOWLEDGE, DRIVER, then
// it writes the features that it takes, FEATURES_OK (it reads back whether the bit stayed), then the queues
// (size, three addresses, QueueReady), DRIVER_OK. Zero is a reset, at any time. FAILED is the driver giving
// up, DEVICE_NEEDS_RESET is ours: the driver broke the rules, error() says how, and nothing but a reset
// helps.
//
// Two threads meet here. vCPUs access registers; the event loop's thread calls service(), which works on the
// queues. One lock covers both, and service() does a bounded piece of work, so a register access waits a
// millisecond at most. In particular a reset, and a queue that is taken back, wait for it: once the driver
// reads that it is done, the device does not touch the memory any more (4.2.2.1).
//
// Interrupts are edges. Each raise sets a bit of InterruptStatus, which stays until the driver acknowledges
// it, and sends an edge of its own. So when a second event comes between the driver's reading of the status
// and its acknowledgement, its bit may be lost but not its edge; and the driver looks at the queues after
// acknowledging, where it finds the event (Linux: vm_interrupt() of drivers/virtio/virtio_mmio.c).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/machine/kvm/devices/bus.h"
#include "host/machine/kvm/devices/guest_ram_view.h"
#include "host/machine/kvm/devices/virtio_device.h"
#include "host/machine/kvm/devices/virtqueue.h"

namespace ktstr::v1 {
class VirtioMmioState;
}

namespace ktstr::kvm {

// All that a driver can see or has set.
struct VirtioMmioState {
  std::uint32_t status = 0;
  std::uint32_t interrupt_status = 0;
  std::uint32_t config_generation = 0;
  std::uint32_t device_features_page = 0;
  std::uint32_t driver_features_page = 0;
  std::uint64_t driver_features = 0;
  std::uint32_t selected_queue = 0;
  std::vector<VirtqueueState> queues;
  bool operator==(const VirtioMmioState&) const = default;
};

class VirtioMmio : public BusDevice {
 public:
  static constexpr std::uint64_t kSize = 0x1000;
  // Where the driver's kicks go: 32 bits, any value, for KVM_IOEVENTFD. Whoever takes them calls service().
  static constexpr std::uint64_t kQueueNotify = 0x050;

  // `service_request` is called, with no lock held, when service() has to be called on the loop's thread:
  // from a vCPU's thread (the driver is ready, or kicked through a register write, or was stopped by an
  // error) or from the loop's (the device got something to send). At most once between two calls of
  // service(). `device`, its only user, and `line` must outlive this.
  VirtioMmio(VirtioDevice& device, const GuestRamView& ram, InterruptLine& line,
             std::function<void()> service_request);

  std::string_view name() const override { return device_.name(); }
  // What is no register, or not accessed as 32 aligned bits (the configuration space has any width), reads as
  // zero and ignores writes.
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  // Works off the queues and hands out what came, within this call. Only on the loop's thread, not from
  // within a receiver. True: call again soon, after whatever else the loop has to do.
  bool service();

  // The device's configuration space changed: tells the driver. Any thread without a lock of this.
  void config_changed();

  // What the driver did wrong first, since the machine started; a reset by the driver does not clear it.
  std::optional<std::string> error() const;
  VirtioMmioState state() const;

  // Registers and queues, without the device; see device_state.cc. RAM has to be loaded before.
  void save(v1::VirtioMmioState& to) const;
  Expected<void> load(const v1::VirtioMmioState& from);
  // An edge, when the driver has an interrupt to acknowledge: after load(), because one may have been on its
  // way when it was saved. Any thread without a lock of this.
  void repeat_edge();

 private:
  std::uint32_t read_register(std::uint64_t offset) const;
  void write_register(std::uint64_t offset, std::uint32_t value);
  void write_status(std::uint32_t value);
  void write_queue_register(std::uint64_t offset, std::uint32_t value);
  void set_queue_ready(std::size_t index, bool ready);
  void reset();
  void set_queue_features();
  void fail(std::string what);
  void raise(std::uint32_t interrupt);
  std::uint64_t offered_features() const;
  bool running() const;
  QueueResult<bool> work();
  void request_service();

  VirtioDevice& device_;
  InterruptLine& line_;
  const std::function<void()> service_request_;
  std::atomic<bool> requested_{false};  // service_request_ was called since the last service()

  mutable std::mutex mutex_;  // of everything below, and of the device
  VirtioMmioState state_;
  std::vector<Virtqueue> queues_;  // over state_.queues
  std::optional<std::string> error_;
  // What has to be done once the lock is free.
  bool edge_ = false;
  bool needs_service_ = false;
};

}  // namespace ktstr::kvm
