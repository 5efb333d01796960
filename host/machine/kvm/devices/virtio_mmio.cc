#include "host/machine/kvm/devices/virtio_mmio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <fmt/core.h>

namespace ktstr::kvm {
namespace {

constexpr std::uint32_t kMagic = 0x74726976;    // "virt"
constexpr std::uint32_t kVersion = 2;           // 1 is the legacy transport
constexpr std::uint32_t kVendor = 0x7274736b;   // "kstr"; nobody looks at it
constexpr std::uint64_t kQueueReset = 0x0c0;    // 1.2; Linux' header does not have it
constexpr std::uint32_t kNoSharedMemory = ~0U;  // length and base of each region
constexpr std::uint32_t kInterrupts = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;

constexpr std::uint64_t bit(unsigned number) {
  return std::uint64_t{1} << number;
}

constexpr std::uint64_t kTransportFeatures =
    bit(VIRTIO_F_VERSION_1) | bit(kFeatureIndirect) | bit(kFeatureEventIndex) | bit(VIRTIO_F_RING_RESET);

void set_low(std::uint64_t& value, std::uint32_t half) {
  value = (value & ~std::uint64_t{0xffffffff}) | half;
}
void set_high(std::uint64_t& value, std::uint32_t half) {
  value = (value & 0xffffffff) | std::uint64_t{half} << 32;
}

}  // namespace

VirtioMmio::VirtioMmio(VirtioDevice& device, const GuestRamView& ram, InterruptLine& line,
                       std::function<void()> service_request)
    : device_(device), line_(line), service_request_(std::move(service_request)) {
  state_.queues.resize(device.queue_count());
  queues_.reserve(state_.queues.size());
  for (std::size_t i = 0; i < state_.queues.size(); ++i) queues_.emplace_back(i, state_.queues[i], ram);
  device.set_service_request([this] { request_service(); });
}

void VirtioMmio::request_service() {
  if (!requested_.exchange(true) && service_request_) service_request_();
}

std::uint64_t VirtioMmio::offered_features() const {
  return device_.features() | kTransportFeatures;
}

bool VirtioMmio::running() const {
  constexpr std::uint32_t stopped = VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
  return (state_.status & (VIRTIO_CONFIG_S_DRIVER_OK | stopped)) == VIRTIO_CONFIG_S_DRIVER_OK;
}

// ---- register accesses

void VirtioMmio::read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  const std::lock_guard lock(mutex_);
  if (offset >= VIRTIO_MMIO_CONFIG) {
    device_.read_config(offset - VIRTIO_MMIO_CONFIG, data);
    return;
  }
  if (data.size() != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0) return;
  const std::uint32_t value = read_register(offset);
  std::memcpy(data.data(), &value, sizeof value);
}

std::uint32_t VirtioMmio::read_register(std::uint64_t offset) const {
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return device_.device_id();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      if (state_.device_features_page > 1) return 0;
      return static_cast<std::uint32_t>(offered_features() >> 32 * state_.device_features_page);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return state_.selected_queue < state_.queues.size() ? kMaxQueueSize : 0;
    case VIRTIO_MMIO_QUEUE_READY:
      if (state_.selected_queue >= state_.queues.size()) return 0;
      return state_.queues[state_.selected_queue].ready ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return state_.interrupt_status;
    case VIRTIO_MMIO_STATUS:
      return state_.status;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return kNoSharedMemory;
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return state_.config_generation;
    default:  // QueueReset as well: a queue is reset within the write
      return 0;
  }
}

void VirtioMmio::write(std::uint64_t offset, std::span<const std::byte> data) {
  bool edge = false;
  bool needs_service = false;
  {
    const std::lock_guard lock(mutex_);
    if (offset >= VIRTIO_MMIO_CONFIG) {
      device_.write_config(offset - VIRTIO_MMIO_CONFIG, data);
    } else if (data.size() == sizeof(std::uint32_t) && offset % sizeof(std::uint32_t) == 0) {
      std::uint32_t value = 0;
      std::memcpy(&value, data.data(), sizeof value);
      write_register(offset, value);
    }
    edge = std::exchange(edge_, false);
    needs_service = std::exchange(needs_service_, false);
  }
  if (edge) line_.trigger();
  if (needs_service) request_service();
}

void VirtioMmio::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      state_.device_features_page = value;
      break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      state_.driver_features_page = value;
      break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      if ((state_.status & VIRTIO_CONFIG_S_DRIVER) == 0) break;
      if ((state_.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0) break;
      if (state_.driver_features_page == 0) set_low(state_.driver_features, value);
      if (state_.driver_features_page == 1) set_high(state_.driver_features, value);
      break;
    case VIRTIO_MMIO_QUEUE_SEL:
      state_.selected_queue = value;
      break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      needs_service_ = running();
      break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      state_.interrupt_status &= ~value;
      break;
    case VIRTIO_MMIO_STATUS:
      write_status(value);
      break;
    default:
      write_queue_register(offset, value);
  }
}

// ---- the device's status

void VirtioMmio::write_status(std::uint32_t value) {
  if (value == 0) {
    reset();
    return;
  }
  value &= VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
           VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED;
  // The driver only ever adds bits (2.1.1). What it leaves out stays set.
  const std::uint32_t before = state_.status;
  std::uint32_t added = value & ~before;
  // A step counts only on top of the one before it.
  const auto requires_step = [&](std::uint32_t step, std::uint32_t earlier) {
    if (((before | added) & earlier) == 0) added &= ~step;
  };
  requires_step(VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_ACKNOWLEDGE);
  requires_step(VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER);
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
    const std::uint64_t taken = state_.driver_features;
    if ((taken & ~offered_features()) != 0 || (taken & bit(VIRTIO_F_VERSION_1)) == 0)
      added &= ~std::uint32_t{VIRTIO_CONFIG_S_FEATURES_OK};
  }
  requires_step(VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK);
  state_.status |= added;

  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) set_queue_features();
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && running()) {
    device_.activate(state_.driver_features);
    needs_service_ = true;
  }
}

void VirtioMmio::set_queue_features() {
  for (Virtqueue& queue : queues_) {
    queue.set_features({.indirect = (state_.driver_features & bit(kFeatureIndirect)) != 0,
                        .event_index = (state_.driver_features & bit(kFeatureEventIndex)) != 0});
  }
}

void VirtioMmio::reset() {
  VirtioMmioState fresh = {.config_generation = state_.config_generation, .queues = {}};
  fresh.queues.swap(state_.queues);  // queues_ points to its elements
  std::ranges::fill(fresh.queues, VirtqueueState{});
  state_ = std::move(fresh);
  device_.reset();
}

void VirtioMmio::fail(std::string what) {
  if (!error_) error_ = fmt::format("{}: {}", device_.name(), what);
  const bool driver_ok = (state_.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  state_.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
  if (driver_ok) raise(VIRTIO_MMIO_INT_CONFIG);  // not before that: 2.1.2
  needs_service_ = true;                         // the loop looks at error()
}

void VirtioMmio::raise(std::uint32_t interrupt) {
  state_.interrupt_status |= interrupt & kInterrupts;
  edge_ = true;
}

// ---- queues

void VirtioMmio::write_queue_register(std::uint64_t offset, std::uint32_t value) {
  const std::size_t index = state_.selected_queue;
  if (index >= state_.queues.size()) return;
  if ((state_.status & VIRTIO_CONFIG_S_FEATURES_OK) == 0) return;
  VirtqueueState& queue = state_.queues[index];
  if (offset == VIRTIO_MMIO_QUEUE_READY) {
    set_queue_ready(index, value == 1);
    return;
  }
  if (offset == kQueueReset) {
    if (value == 1 && (state_.driver_features & bit(VIRTIO_F_RING_RESET)) != 0) queue = {};
    return;
  }
  if (queue.ready) return;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      queue.size = value;
      break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
      set_low(queue.descriptors, value);
      break;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      set_high(queue.descriptors, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
      set_low(queue.available, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      set_high(queue.available, value);
      break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
      set_low(queue.used, value);
      break;
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      set_high(queue.used, value);
      break;
    default:
      break;
  }
}

void VirtioMmio::set_queue_ready(std::size_t index, bool ready) {
  VirtqueueState& queue = state_.queues[index];
  if (ready == queue.ready) return;
  if (!ready) {
    queue.ready = false;
    return;
  }
  if (auto checked = queues_[index].check(); !checked) {
    fail(std::move(checked.error()));
    return;
  }
  // A queue starts at zero on both sides.
  queue.next_available = queue.next_used = queue.signalled_used = 0;
  queue.ready = true;
  needs_service_ = running();
}

bool VirtioMmio::service() {
  // First: what is requested from here on may come too late for this call.
  requested_.store(false);
  bool more = false;
  bool edge = false;
  {
    const std::lock_guard lock(mutex_);
    if (running()) {
      auto worked = work();
      if (worked) {
        more = *worked;
      } else {
        fail(std::move(worked.error()));
      }
    }
    needs_service_ = false;
    edge = std::exchange(edge_, false);
  }
  if (edge) line_.trigger();
  device_.deliver();
  return more;
}

QueueResult<bool> VirtioMmio::work() {
  auto more = device_.service(queues_);
  if (!more) return more;
  bool interrupt = false;
  for (Virtqueue& queue : queues_) {
    if (!queue.ready()) continue;
    const auto wanted = queue.take_interrupt();
    if (!wanted) return std::unexpected(wanted.error());
    interrupt |= *wanted;
  }
  if (interrupt) raise(VIRTIO_MMIO_INT_VRING);
  return more;
}

void VirtioMmio::config_changed() {
  bool edge = false;
  {
    const std::lock_guard lock(mutex_);
    ++state_.config_generation;
    if (running()) raise(VIRTIO_MMIO_INT_CONFIG);
    edge = std::exchange(edge_, false);
  }
  if (edge) line_.trigger();
}

std::optional<std::string> VirtioMmio::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

VirtioMmioState VirtioMmio::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

}  // namespace ktstr::kvm
