// The two ways frames leave an emulated machine.
//
// A virtio-serial port (virtio 1.2 section 5.3) goes both ways and is fast, but QEMU serves it when its main
// loop gets to it: when the guest learns that a buffer was taken depends on the host. The debug port
// (isa-debugcon, one I/O port that swallows bytes) only leaves the guest and costs an exit a byte, but is
// done within the instruction: the guest cannot see how slow we are. Deterministic machines use that one.
#pragma once

#include <memory>
#include <utility>

#include "host/machine/frame_link.h"
#include "host/machine/tcg/stream_port.h"

namespace ktstr {

// What both have: bytes that come in on a port of ours go to the receiver.
class TcgFrameLink : public FrameLink {
 public:
  void set_receiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  // For the machine: the port once it is there, and what came in on it.
  virtual void attach(std::shared_ptr<StreamPort> port) = 0;
  void receive(std::span<const std::byte> bytes) {
    if (receiver_) receiver_(bytes);
  }

 private:
  Receiver receiver_;
};

// QEMU reads our socket only while the guest has the port open, so bytes sent early are not lost.
class VirtioFrameLink final : public TcgFrameLink {
 public:
  Expected<void> send(std::string_view bytes) override {
    if (!port_) return fail(ErrorCode::kHost, "cannot send to the guest: the machine does not run");
    return port_->send(bytes);
  }
  bool can_send() const override { return true; }
  std::string_view guest_address() const override { return "virtio:ktstr.frames"; }
  void attach(std::shared_ptr<StreamPort> port) override { port_ = std::move(port); }

 private:
  std::shared_ptr<StreamPort> port_;
};

class DebugPortFrameLink final : public TcgFrameLink {
 public:
  Expected<void> send(std::string_view /*bytes*/) override {
    return fail(ErrorCode::kHost, "nothing enters a deterministic guest after its start");
  }
  bool can_send() const override { return false; }
  std::string_view guest_address() const override { return "debugcon:0xe9"; }
  void attach(std::shared_ptr<StreamPort> /*port*/) override {}
};

}  // namespace ktstr
