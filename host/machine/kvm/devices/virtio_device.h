// VirtioDevice: what a virtio device has to know and do, without the transport that carries it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <utility>

#include "host/machine/kvm/devices/virtqueue.h"

namespace ktstr::kvm {

// The transport (VirtioMmio) calls everything below under its lock, from vCPU threads and from the loop's
// thread, except deliver().
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  // Constant.
  virtual std::string_view name() const = 0;
  virtual std::uint32_t device_id() const = 0;  // virtio 1.2, section 5
  virtual std::uint64_t features() const = 0;   // the device's own bits, 0 to 23
  virtual std::size_t queue_count() const = 0;

  // Configuration space. What is beyond its end reads as zero; writes there are ignored.
  virtual void read_config(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write_config(std::uint64_t offset, std::span<const std::byte> data) = 0;

  // The driver is ready and agreed on these features. Queues may become ready, or not, at any time.
  virtual void activate(std::uint64_t features) = 0;
  // Back to the state before activate().
  virtual void reset() = 0;

  // Works off the queues, on the loop's thread, and does a bounded piece of work only. True: there is more to
  // do at once. An error is the driver's, and the transport asks it for a reset.
  virtual QueueResult<bool> service(std::span<Virtqueue> queues) = 0;
  // Hands out what service() took from the guest. On the loop's thread after each service(), without a lock.
  virtual void deliver() = 0;

  // The transport's way to get service() called soon; set once, before anything runs.
  void set_service_request(std::function<void()> request) { service_request_ = std::move(request); }

 protected:
  // Any thread that holds no lock of the transport.
  void request_service() {
    if (service_request_) service_request_();
  }

 private:
  std::function<void()> service_request_;
};

}  // namespace ktstr::kvm
