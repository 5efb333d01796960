// VirtioFrameLink: frames over a named virtio-serial port (virtio 1.2 section 5.3).
#pragma once

#include <memory>
#include <utility>

#include "host/machine/frame_link.h"
#include "host/machine/tcg/stream_port.h"

namespace ktstr {

// QEMU reads our socket only while the guest has the port open, so bytes sent early are not lost.
class VirtioFrameLink : public FrameLink {
 public:
  void set_receiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  Expected<void> send(std::string_view bytes) override {
    if (!port_) return fail(ErrorCode::kHost, "cannot send to the guest: the machine does not run");
    return port_->send(bytes);
  }
  bool can_send() const override { return true; }
  std::string_view guest_address() const override { return "virtio:ktstr.frames"; }

  // For the machine: the port once it is there, and what came in on it.
  void attach(std::shared_ptr<StreamPort> port) { port_ = std::move(port); }
  void receive(std::span<const std::byte> bytes) {
    if (receiver_) receiver_(bytes);
  }

 private:
  Receiver receiver_;
  std::shared_ptr<StreamPort> port_;
};

}  // namespace ktstr
