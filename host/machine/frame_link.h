// FrameLink: the host's end of the frame stream, whatever carries it (a virtio-console port, later a debug
// port).
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>

#include "common/error.h"

namespace ktstr {

// A byte stream from the guest and, where the machine has one, back to it. The transport keeps nothing of a
// frame's meaning; the codec sits on top (common/frame_codec.h). All calls and callbacks are on the event
// loop's thread.
class FrameLink {
 public:
  // Bytes from the guest; the span is valid during the call only.
  using Receiver = std::function<void(std::span<const std::byte>)>;

  virtual ~FrameLink() = default;
  // Sets who gets the bytes; call before Machine::start.
  virtual void set_receiver(Receiver receiver) = 0;
  // Queues bytes for the guest. Error kHost when the transport has no way in (see can_send) or when the guest
  // has left more than 64 MiB unread.
  virtual Expected<void> send(std::string_view bytes) = 0;
  // False for a transport that only leaves the guest (deterministic runs: nothing enters a guest after its
  // start).
  virtual bool can_send() const = 0;
  // What the guest needs to find its end; goes onto the kernel command line as ktstr.frames=<this>,
  // e.g. "virtio:ktstr.frames".
  virtual std::string_view guest_address() const = 0;
};

}  // namespace ktstr
