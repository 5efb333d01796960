// VirtioConsole: a virtio console with several ports (virtio 1.2, section 5.3, with
// VIRTIO_CONSOLE_F_MULTIPORT).
//
// Each port is a pair of byte streams and has a pair of queues: one that the driver fills with empty buffers
// for what comes in, one with what goes out. A further pair carries control messages of 8 bytes {port, event,
// value}; queues 2 and 3, because port 0 came first in history. The conversation with Linux
// (drivers/char/virtio_console.c) goes:
//
//   driver                          device
//   DEVICE_READY 1            ->
//                             <-    PORT_ADD, of every port
//   PORT_READY 1 (port)       ->
//                             <-    CONSOLE_PORT 1, when it is to be an hvc
//                             <-    RESIZE, when a size is known
//                             <-    PORT_NAME, the name behind the message: /sys/class/virtio-ports/*/name
//                             <-    PORT_OPEN 1: the host's end is open, else the guest's writers would wait
//   PORT_OPEN 1 (port)        ->    an hvc at once, another port when a process opens /dev/vportNpM
//
// Linux throws away what arrives for a port that is not open, so bytes for the guest wait here until it is,
// and again after it was closed; also across a reset, because the first thing a driver does is one. What the
// device has to say is a set of flags per port, not a list of messages: it cannot grow, however often the
// driver asks.
//
// Flow control. Out of the guest: chains are taken as they come, up to kServiceBytes a port and service();
// the driver's writer spins until its chain is back (Linux does for hvc0 and control messages), so nothing is
// held on to. Into the guest: no more than it has offered buffers for, the rest waits here.
//
// Threads: what the driver has set is under the transport's lock. The streams belong to the loop's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "host/machine/kvm/devices/virtio_device.h"
#include "host/machine/kvm/devices/virtqueue.h"

namespace ktstr::v1 {
class ConsoleState;
}

namespace ktstr::kvm {

struct ConsoleSize {
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
};

struct ConsolePortSpec {
  std::string name;  // "": none; at most kMaxName bytes
  bool is_console = false;
  // Of the terminal. Linux before "virtio_console: fix order of fields cols and rows" takes them the other
  // way round.
  std::optional<ConsoleSize> size = std::nullopt;
};

// Bytes in order, in pieces: adding and removing cost what is added and removed.
class ByteQueue {
 public:
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  void append(std::string_view bytes);
  // Removes and returns the first bytes, `size` at most: fewer when a piece ends before.
  std::string_view front(std::size_t size) const;
  void remove(std::size_t size);  // at most what front() returned

 private:
  std::deque<std::string> pieces_;  // none is empty
  std::size_t offset_ = 0;          // of the first one, removed already
  std::size_t size_ = 0;
};

class VirtioConsole : public VirtioDevice {
 public:
  using Receiver = std::function<void(std::span<const std::byte>)>;

  static constexpr std::size_t kMaxName = 255;
  // What the guest may leave unread.
  static constexpr std::size_t kMaxUnread = std::size_t{64} << 20;
  // The largest chain that a driver may send at once. Linux: 32 KiB by write(2), a full pipe by splice(2).
  static constexpr std::uint64_t kMaxChain = std::uint64_t{4} << 20;
  // Bounds of one service(), for each queue: after so many bytes or chains it is the next one's turn.
  static constexpr std::uint64_t kServiceBytes = std::uint64_t{256} << 10;
  static constexpr std::uint32_t kServiceChains = 256;

  // Port 0 is the first one. At least one; Linux takes up to 32,768. Longer names are cut.
  explicit VirtioConsole(std::vector<ConsolePortSpec> ports);

  // The three functions for the loop's thread. `receiver` is called from within VirtioMmio::service(), where
  // it may send().
  void set_receiver(std::size_t port, Receiver receiver);
  // Queues bytes for the guest and asks for service(). Error kHost: more than kMaxUnread would be unread, or
  // there is no such port; nothing is queued then.
  Expected<void> send(std::size_t port, std::string_view bytes);
  // Bytes queued that the guest has not offered buffers for.
  std::size_t unread(std::size_t port) const;

  // Throws away what send() has queued: the host's end of a clone starts anew, and its guest must not read
  // what somebody has sent to another one. Only what is wholly unread; a driver's buffer that is filled
  // already stays so.
  void drop_unread();

  // The ports; see device_state.cc. On the loop's thread, while no vCPU runs.
  void save(v1::ConsoleState& to) const;
  Expected<void> load(const v1::ConsoleState& from);

  std::string_view name() const override { return "virtio-console"; }
  std::uint32_t device_id() const override;
  std::uint64_t features() const override;
  std::size_t queue_count() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> data) override;
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override;
  void activate(std::uint64_t features) override;
  void reset() override;
  QueueResult<bool> service(std::span<Virtqueue> queues) override;
  void deliver() override;

 private:
  // What the driver knows and has said of a port.
  struct PortState {
    std::uint8_t due = 0;  // messages that the driver has to get, bits of Due
    bool open = false;     // by the guest
  };
  struct State {
    bool multiport = false;
    std::vector<PortState> ports;
  };
  struct Port {
    ConsolePortSpec spec;
    Receiver receiver;
    ByteQueue unread;      // for the guest
    std::string received;  // from the guest, until deliver()
  };

  State initial_state() const;
  std::optional<std::string> take_due_message();
  std::string message(std::size_t port, std::uint8_t due) const;
  void take_control_message(std::uint32_t port, std::uint16_t event, std::uint16_t value);
  QueueResult<bool> service_control_out(Virtqueue& queue);
  QueueResult<bool> service_control_in(Virtqueue& queue);
  QueueResult<bool> service_output(Virtqueue& queue, Port& port);
  QueueResult<bool> service_input(Virtqueue& queue, Port& port);

  State state_;              // under the transport's lock
  std::vector<Port> ports_;  // of the loop's thread; spec is constant
  DescriptorChain chain_;    // of the loop's thread; kept for its memory
};

}  // namespace ktstr::kvm
