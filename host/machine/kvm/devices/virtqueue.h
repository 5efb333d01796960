// Virtqueue: the device's end of one split virtqueue (virtio 1.2, section 2.7).
//
// A virtqueue is three tables in guest RAM, made by the guest's driver and found by the device through three
// addresses:
//
//   descriptor table   size * 16 bytes   buffers: address, length, flags, number of the next one
//   available ring     6 + size * 2      driver -> device: heads of chains to work on, and how many so far
//   used ring          6 + size * 8      device -> driver: heads of chains done with, bytes written, how many
//
// A request is a chain of descriptors: first the buffers that the device may read, then those that it may
// write. The driver puts the number of the chain's first descriptor into the available ring and then raises
// the ring's index; the device works and answers the same way in the used ring. Both indices count modulo
// 2^16 and only ever grow, so the difference of two of them says how much is new, and `index mod size` is
// the slot. Whoever raises an index does so after everything it stands for (release), and the other side
// looks at nothing else before it (acquire). No lock is shared between the two sides.
//
// A chain may continue in an indirect table (VIRTIO_RING_F_INDIRECT_DESC): one descriptor whose buffer is an
// array of descriptors, chained by their place in that array. So a long request takes one slot of the queue.
//
// Kicks and interrupts cost thousands of instructions each, so either side can say when it wants the next
// one. With VIRTIO_RING_F_EVENT_IDX each writes an index behind the other one's ring: "tell me when your
// index moves past this". Whoever looks for work must write its event index first, then look once more: else
// the other side could have moved just before it saw the request, and both would wait for ever. Between the
// write and the look there must be a full barrier, the one place where x86 reorders.
//
// Everything the driver wrote is hostile. What can be wrong, and what stops it:
//   - the available index jumps by more than the queue's size: no driver can have that many chains out
//   - a head or a next number is outside of its table: compared with the size before use
//   - a chain that loops: a walk of more steps than the table has descriptors must have met one twice
//   - an indirect table that is no whole number of descriptors, empty, larger than any queue, nested, or that
//     also claims a next descriptor; or indirection that was not agreed on
//   - a buffer that the device may read after one that it may write
//   - a buffer that is not RAM from its first to its last byte, or whose end wraps around
// Each ends in a text that says which queue, which chain and which descriptor; the transport then asks for a
// reset (DEVICE_NEEDS_RESET) and looks at no queue until it got one. Values are copied out of guest RAM once
// and checked in the copy, so nothing that is rewritten meanwhile matters. All addresses go through
// GuestRamView, which refuses what is no RAM. A chain costs at most 512 steps and no memory beyond two
// vectors that are used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <vector>

#include "host/machine/kvm/devices/guest_ram_view.h"

namespace ktstr::kvm {

inline constexpr std::uint16_t kMaxQueueSize = 256;
// Feature bits; linux/virtio_ring.h, which has them too, is no C++.
inline constexpr unsigned kFeatureIndirect = 28;
inline constexpr unsigned kFeatureEventIndex = 29;

// What the driver did wrong, in words.
template <class T>
using QueueResult = std::expected<T, std::string>;

// A queue as the driver set it up and where the device is in it: all there is to save.
struct VirtqueueState {
  std::uint32_t size = 0;  // as written by the driver; checked when it declares the queue ready
  bool ready = false;
  std::uint64_t descriptors = 0;  // guest-physical addresses
  std::uint64_t available = 0;
  std::uint64_t used = 0;
  std::uint16_t next_available = 0;  // index of the first chain not yet taken
  std::uint16_t next_used = 0;       // index of the next answer
  std::uint16_t signalled_used = 0;  // next_used when the driver's wish for an interrupt was last looked at
  bool operator==(const VirtqueueState&) const = default;
};

// Part of a chain: a buffer within guest RAM.
struct GuestBuffer {
  std::uint64_t gpa = 0;
  std::uint32_t size = 0;
};

struct DescriptorChain {
  std::uint16_t head = 0;
  std::vector<GuestBuffer> readable;  // by the device
  std::vector<GuestBuffer> writable;
  std::uint64_t readable_size = 0;  // sums of the buffers' sizes; they may overlap
  std::uint64_t writable_size = 0;
};

// Works on a VirtqueueState that it does not own. Not thread-safe: the transport's lock covers it.
class Virtqueue {
 public:
  struct Features {
    bool indirect = false;
    bool event_index = false;
  };

  // `index` is for messages. The state must outlive this.
  Virtqueue(std::size_t index, VirtqueueState& state, GuestRamView ram);

  void set_features(Features features) { features_ = features; }
  std::size_t index() const { return index_; }
  bool ready() const { return state_->ready; }
  const GuestRamView& ram() const { return ram_; }

  // Whether size, alignment and addresses can be those of a queue.
  QueueResult<void> check() const;

  // Takes the next chain. False: there is none; `chain` is then not specified.
  QueueResult<bool> pop(DescriptorChain& chain);
  // Gives a chain back, `written` bytes of its writable buffers filled from the front.
  QueueResult<void> push(std::uint16_t head, std::uint32_t written);

  // Asks the driver to say when it adds the next chain. True: it already did, and may not say so again.
  QueueResult<bool> want_kick();
  // Tells the driver that chains added from now on need no kick. A hint.
  QueueResult<void> want_no_kick();

  // Whether the driver wants an interrupt for what was pushed since the last call.
  QueueResult<bool> take_interrupt();

  // Copies the first `out.size()` bytes of the chain's readable buffers; it has as many.
  QueueResult<void> read(const DescriptorChain& chain, std::span<std::byte> out) const;
  // Fills the chain's writable buffers from the front; they have room for all of `bytes`.
  QueueResult<void> write(const DescriptorChain& chain, std::span<const std::byte> bytes) const;

 private:
  struct Descriptor {
    std::uint64_t gpa = 0;
    std::uint32_t size = 0;
    std::uint16_t flags = 0;
    std::uint16_t next = 0;
  };
  struct Table {
    std::uint64_t gpa = 0;
    std::uint32_t size = 0;  // descriptors
    bool indirect = false;
  };

  QueueResult<std::uint16_t> load(std::uint64_t gpa, const char* what) const;
  QueueResult<void> store(std::uint64_t gpa, std::uint16_t value, const char* what) const;
  QueueResult<void> walk(Table table, std::uint32_t first, DescriptorChain& chain) const;
  QueueResult<void> add_buffer(const Descriptor& descriptor, DescriptorChain& chain) const;
  QueueResult<Table> indirect_table(const Descriptor& descriptor) const;

  // Addresses of the fields, see the picture above.
  std::uint64_t available_flags() const { return state_->available; }
  std::uint64_t available_index() const { return state_->available + 2; }
  std::uint64_t available_slot(std::uint16_t index) const;
  std::uint64_t used_event() const;  // the driver's wish, behind the available ring
  std::uint64_t used_flags() const { return state_->used; }
  std::uint64_t used_index() const { return state_->used + 2; }
  std::uint64_t used_slot(std::uint16_t index) const;
  std::uint64_t available_event() const;  // the device's wish, behind the used ring

  std::size_t index_;
  VirtqueueState* state_;
  GuestRamView ram_;
  Features features_;
};

}  // namespace ktstr::kvm
