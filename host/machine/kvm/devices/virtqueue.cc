#include "host/machine/kvm/devices/virtqueue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include <fmt/core.h>

namespace ktstr::kvm {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the rings are little endian and are used in place");

// Flags of a descriptor, and of the two rings.
constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWritable = 2;
constexpr std::uint16_t kIndirect = 4;
constexpr std::uint16_t kNoInterrupt = 1;  // available ring
constexpr std::uint16_t kNoKick = 1;       // used ring

constexpr std::uint64_t kDescriptorBytes = 16;
constexpr std::uint64_t kUsedEntryBytes = 8;

// Whether the driver asked to be told when an index moves past `event`, and it did on the way from `before`
// to `now` (virtio 1.2, 2.7.7.1). All modulo 2^16.
bool passed(std::uint16_t event, std::uint16_t now, std::uint16_t before) {
  return static_cast<std::uint16_t>(now - event - 1) < static_cast<std::uint16_t>(now - before);
}

}  // namespace

Virtqueue::Virtqueue(std::size_t index, VirtqueueState& state, GuestRamView ram)
    : index_(index), state_(&state), ram_(std::move(ram)) {}

std::uint64_t Virtqueue::available_slot(std::uint16_t index) const {
  return state_->available + 4 + std::uint64_t{2} * (index % state_->size);
}
std::uint64_t Virtqueue::used_event() const {
  return state_->available + 4 + std::uint64_t{2} * state_->size;
}
std::uint64_t Virtqueue::used_slot(std::uint16_t index) const {
  return state_->used + 4 + kUsedEntryBytes * (index % state_->size);
}
std::uint64_t Virtqueue::available_event() const {
  return state_->used + 4 + kUsedEntryBytes * state_->size;
}

QueueResult<void> Virtqueue::check() const {
  const std::uint32_t size = state_->size;
  if (!std::has_single_bit(size) || size > kMaxQueueSize) {
    return std::unexpected(
        fmt::format("queue {}: size {} is no power of two up to {}", index_, size, kMaxQueueSize));
  }
  const struct {
    const char* name;
    std::uint64_t gpa;
    std::uint64_t alignment;
    std::uint64_t bytes;
  } tables[] = {
      {"descriptor table", state_->descriptors, 16, kDescriptorBytes * size},
      {"available ring", state_->available, 2, 6 + std::uint64_t{2} * size},
      {"used ring", state_->used, 4, 6 + kUsedEntryBytes * size},
  };
  for (const auto& table : tables) {
    if (table.gpa % table.alignment != 0) {
      return std::unexpected(fmt::format("queue {}: {} at {:#x} is not aligned to {} bytes", index_,
                                         table.name, table.gpa, table.alignment));
    }
    if (!ram_.contains(table.gpa, table.bytes)) {
      return std::unexpected(fmt::format("queue {}: {} at {:#x}, {} bytes, is not in RAM", index_, table.name,
                                         table.gpa, table.bytes));
    }
  }
  return {};
}

QueueResult<std::uint16_t> Virtqueue::load(std::uint64_t gpa, const char* what) const {
  std::uint16_t value = 0;
  if (!ram_.load_acquire(gpa, value))
    return std::unexpected(fmt::format("queue {}: {} at {:#x} cannot be read", index_, what, gpa));
  return value;
}

QueueResult<void> Virtqueue::store(std::uint64_t gpa, std::uint16_t value, const char* what) const {
  if (!ram_.store_release(gpa, value))
    return std::unexpected(fmt::format("queue {}: {} at {:#x} cannot be written", index_, what, gpa));
  return {};
}

QueueResult<bool> Virtqueue::pop(DescriptorChain& chain) {
  const auto index = load(available_index(), "available index");
  if (!index) return std::unexpected(index.error());
  const auto waiting = static_cast<std::uint16_t>(*index - state_->next_available);
  if (waiting == 0) return false;
  if (waiting > state_->size) {
    return std::unexpected(
        fmt::format("queue {}: available index went from {} to {}, by more than its size {}", index_,
                    state_->next_available, *index, state_->size));
  }
  const auto head = load(available_slot(state_->next_available), "available ring");
  if (!head) return std::unexpected(head.error());

  chain.head = *head;
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_size = chain.writable_size = 0;
  const Table table = {.gpa = state_->descriptors, .size = state_->size, .indirect = false};
  if (auto walked = walk(table, *head, chain); !walked) {
    return std::unexpected(fmt::format("queue {}: chain {}: {}", index_, *head, walked.error()));
  }
  ++state_->next_available;
  return true;
}

QueueResult<void> Virtqueue::walk(Table table, std::uint32_t first, DescriptorChain& chain) const {
  std::uint32_t at = first;
  // Of this table; a jump into the indirect one starts anew, and there is only one such jump.
  for (std::uint32_t steps = 0; steps < table.size;) {
    if (at >= table.size) {
      return std::unexpected(fmt::format("descriptor {} is outside of the {} of {}", at,
                                         table.indirect ? "indirect table" : "table", table.size));
    }
    Descriptor descriptor;
    static_assert(sizeof descriptor == kDescriptorBytes);
    if (!ram_.read(table.gpa + kDescriptorBytes * at, std::as_writable_bytes(std::span(&descriptor, 1))))
      return std::unexpected(fmt::format("descriptor {} cannot be read", at));
    ++steps;

    if ((descriptor.flags & kIndirect) != 0) {
      if (table.indirect) {
        return std::unexpected(fmt::format("indirect descriptor {} within an indirect table", at));
      }
      const auto inner = indirect_table(descriptor);
      if (!inner) return std::unexpected(fmt::format("descriptor {}: {}", at, inner.error()));
      table = *inner;
      at = 0;
      steps = 0;
      continue;
    }
    if (auto added = add_buffer(descriptor, chain); !added)
      return std::unexpected(fmt::format("descriptor {}: {}", at, added.error()));
    if ((descriptor.flags & kNext) == 0) return {};
    at = descriptor.next;
  }
  return std::unexpected(fmt::format("does not end within {} descriptors", table.size));
}

QueueResult<Virtqueue::Table> Virtqueue::indirect_table(const Descriptor& descriptor) const {
  if (!features_.indirect) return std::unexpected("indirect, which was not agreed on");
  if ((descriptor.flags & kNext) != 0) return std::unexpected("indirect with a next descriptor");
  const std::uint32_t size = descriptor.size;
  if (size == 0 || size % kDescriptorBytes != 0 || size / kDescriptorBytes > kMaxQueueSize) {
    return std::unexpected(fmt::format("indirect table of {} bytes, not 1 to {} descriptors of {}", size,
                                       kMaxQueueSize, kDescriptorBytes));
  }
  if (!ram_.contains(descriptor.gpa, size))
    return std::unexpected(fmt::format("indirect table at {:#x} is not in RAM", descriptor.gpa));
  return Table{
      .gpa = descriptor.gpa, .size = static_cast<std::uint32_t>(size / kDescriptorBytes), .indirect = true};
}

QueueResult<void> Virtqueue::add_buffer(const Descriptor& descriptor, DescriptorChain& chain) const {
  if (!ram_.contains(descriptor.gpa, descriptor.size)) {
    return std::unexpected(
        fmt::format("buffer at {:#x}, {} bytes, is not in RAM", descriptor.gpa, descriptor.size));
  }
  const GuestBuffer buffer = {.gpa = descriptor.gpa, .size = descriptor.size};
  if ((descriptor.flags & kWritable) != 0) {
    chain.writable.push_back(buffer);
    chain.writable_size += buffer.size;
    return {};
  }
  if (!chain.writable.empty()) return std::unexpected("a readable buffer after a writable one");
  chain.readable.push_back(buffer);
  chain.readable_size += buffer.size;
  return {};
}

QueueResult<void> Virtqueue::push(std::uint16_t head, std::uint32_t written) {
  const std::uint32_t entry[2] = {head, written};
  if (!ram_.write(used_slot(state_->next_used), std::as_bytes(std::span(entry))))
    return std::unexpected(fmt::format("queue {}: used ring cannot be written", index_));
  ++state_->next_used;
  return store(used_index(), state_->next_used, "used index");
}

QueueResult<bool> Virtqueue::want_kick() {
  auto stored = features_.event_index ? store(available_event(), state_->next_available, "available event")
                                      : store(used_flags(), 0, "used flags");
  if (!stored) return std::unexpected(std::move(stored.error()));
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto index = load(available_index(), "available index");
  if (!index) return std::unexpected(index.error());
  return *index != state_->next_available;
}

QueueResult<void> Virtqueue::want_no_kick() {
  // With event indices there is nothing to do: the driver kicks once for each index that it was given.
  if (features_.event_index) return {};
  return store(used_flags(), kNoKick, "used flags");
}

QueueResult<bool> Virtqueue::take_interrupt() {
  const std::uint16_t before = std::exchange(state_->signalled_used, state_->next_used);
  if (before == state_->next_used) return false;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (features_.event_index) {
    const auto event = load(used_event(), "used event");
    if (!event) return std::unexpected(event.error());
    return passed(*event, state_->next_used, before);
  }
  const auto flags = load(available_flags(), "available flags");
  if (!flags) return std::unexpected(flags.error());
  return (*flags & kNoInterrupt) == 0;
}

QueueResult<void> Virtqueue::read(const DescriptorChain& chain, std::span<std::byte> out) const {
  for (const GuestBuffer& buffer : chain.readable) {
    if (out.empty()) break;
    const auto part = out.first(std::min<std::size_t>(out.size(), buffer.size));
    if (!ram_.read(buffer.gpa, part))
      return std::unexpected(fmt::format("queue {}: buffer at {:#x} cannot be read", index_, buffer.gpa));
    out = out.subspan(part.size());
  }
  if (!out.empty())
    return std::unexpected(fmt::format("queue {}: chain {} is too short", index_, chain.head));
  return {};
}

QueueResult<void> Virtqueue::write(const DescriptorChain& chain, std::span<const std::byte> bytes) const {
  for (const GuestBuffer& buffer : chain.writable) {
    if (bytes.empty()) break;
    const auto part = bytes.first(std::min<std::size_t>(bytes.size(), buffer.size));
    if (!ram_.write(buffer.gpa, part))
      return std::unexpected(fmt::format("queue {}: buffer at {:#x} cannot be written", index_, buffer.gpa));
    bytes = bytes.subspan(part.size());
  }
  if (!bytes.empty())
    return std::unexpected(fmt::format("queue {}: chain {} is too short", index_, chain.head));
  return {};
}

}  // namespace ktstr::kvm
