#include "tests/unit/machine/kvm_devices/mock_guest.h"

#include <algorithm>
#include <cstring>

#include <fmt/core.h>
#include <gtest/gtest.h>

namespace ktstr::kvm::mock {

std::uint64_t read_register(BusDevice& device, std::uint64_t offset, std::size_t bytes) {
  std::uint64_t value = 0;
  device.read(offset, std::as_writable_bytes(std::span(&value, 1)).first(bytes));
  return value;
}

void write_register(BusDevice& device, std::uint64_t offset, std::uint64_t value, std::size_t bytes) {
  device.write(offset, std::as_bytes(std::span(&value, 1)).first(bytes));
}

// ---- MockRam

MockRam::MockRam(std::uint64_t gpa, std::uint64_t size)
    : gpa_(gpa), size_(size), next_(gpa), words_((size + 7) / 8) {}

std::span<std::byte> MockRam::host() const {
  return std::as_writable_bytes(std::span(words_)).first(size_);
}

std::uint64_t MockRam::allocate(std::uint64_t size, std::uint64_t alignment) {
  const std::uint64_t at = (next_ + alignment - 1) / alignment * alignment;
  next_ = at + size;
  if (next_ > end()) ADD_FAILURE() << "the test's RAM is too small";
  return at;
}

std::string MockRam::text(std::uint64_t gpa, std::uint64_t size) const {
  return {reinterpret_cast<const char*>(at(gpa)), size};
}

void MockRam::put_text(std::uint64_t gpa, std::string_view text) {
  std::memcpy(at(gpa), text.data(), text.size());
}

std::uint16_t MockRam::load(std::uint64_t gpa) const {
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(at(gpa))).load();
}

void MockRam::store(std::uint64_t gpa, std::uint16_t value) {
  std::atomic_ref(*reinterpret_cast<std::uint16_t*>(at(gpa))).store(value);
}

// ---- MockQueue

MockQueue::MockQueue(MockRam& ram, std::uint16_t size, bool event_index)
    : ram_(&ram),
      size_(size),
      event_index_(event_index),
      descriptors_(ram.allocate(std::uint64_t{16} * size, 4096)),
      available_(ram.allocate(6 + std::uint64_t{2} * size, 2)),
      used_(ram.allocate(6 + std::uint64_t{8} * size, 4)) {
  restart();
}

void MockQueue::restart() {
  for (std::uint64_t at = available_; at < available_ + 6 + std::uint64_t{2} * size_; at += 2)
    ram_->store(at, 0);
  for (std::uint64_t at = used_; at < used_ + 6 + std::uint64_t{8} * size_; at += 2) ram_->store(at, 0);
  offered_ = kicked_ = taken_ = 0;
  free_.clear();
  for (std::uint16_t i = size_; i-- > 0;) free_.push_back(i);
}

void MockQueue::set(std::uint16_t index, MockDescriptor descriptor) {
  ram_->put(descriptors_ + std::uint64_t{16} * index, descriptor);
}

void MockQueue::offer(std::uint16_t head) {
  // Another vCPU's view of a ring slot: the device may look at any time.
  ram_->store(available_ + 4 + std::uint64_t{2} * (offered_ % size_), head);
  ram_->store(available_ + 2, ++offered_);
}

bool MockQueue::needs_kick() {
  const std::uint16_t before = std::exchange(kicked_, offered_);
  if (!event_index_) return (ram_->load(used_) & 1) == 0;
  const std::uint16_t event = ram_->load(used_ + 4 + std::uint64_t{8} * size_);
  return static_cast<std::uint16_t>(offered_ - event - 1) < static_cast<std::uint16_t>(offered_ - before);
}

std::optional<std::pair<std::uint16_t, std::uint32_t>> MockQueue::take_used() {
  if (!has_used()) return std::nullopt;
  const std::uint64_t slot = used_ + 4 + std::uint64_t{8} * (taken_ % size_);
  ++taken_;
  return std::pair(static_cast<std::uint16_t>(ram_->get<std::uint32_t>(slot)),
                   ram_->get<std::uint32_t>(slot + 4));
}

std::optional<std::uint16_t> MockQueue::add(std::uint64_t gpa, std::uint32_t size, bool writable) {
  if (free_.empty()) return std::nullopt;
  const std::uint16_t head = free_.back();
  free_.pop_back();
  set(head, {.gpa = gpa, .size = size, .flags = writable ? kWrite : std::uint16_t{0}});
  offer(head);
  return head;
}

VirtqueueState MockQueue::state() const {
  return {.size = size_, .ready = true, .descriptors = descriptors_, .available = available_, .used = used_};
}

// ---- MockDriver

std::uint64_t MockDriver::offered_features() {
  write(kDeviceFeaturesSel, 1);
  const std::uint64_t high = read(kDeviceFeatures);
  write(kDeviceFeaturesSel, 0);
  return high << 32 | read(kDeviceFeatures);
}

void MockDriver::write_features(std::uint64_t features) {
  write(kDriverFeaturesSel, 1);
  write(kDriverFeatures, static_cast<std::uint32_t>(features >> 32));
  write(kDriverFeaturesSel, 0);
  write(kDriverFeatures, static_cast<std::uint32_t>(features));
}

bool MockDriver::negotiate(std::uint64_t features) {
  write(kStatus, 0);
  write(kStatus, read(kStatus) | kAcknowledge);
  write(kStatus, read(kStatus) | kDriver);
  write_features(features);
  write(kStatus, read(kStatus) | kFeaturesOk);
  return (read(kStatus) & kFeaturesOk) != 0;
}

void MockDriver::set_up_queue(std::uint32_t index, const MockQueue& queue) {
  const auto address = [this](std::uint64_t low_register, std::uint64_t gpa) {
    write(low_register, static_cast<std::uint32_t>(gpa));
    write(low_register + 4, static_cast<std::uint32_t>(gpa >> 32));
  };
  write(kQueueSel, index);
  EXPECT_EQ(read(kQueueReady), 0U);
  EXPECT_GE(read(kQueueNumMax), queue.size());
  write(kQueueNum, queue.size());
  address(kQueueDescLow, queue.descriptors());
  address(kQueueDriverLow, queue.available());
  address(kQueueDeviceLow, queue.used());
  write(kQueueReady, 1);
}

void MockDriver::driver_ok() {
  write(kStatus, read(kStatus) | kDriverOk);
}

std::uint32_t MockDriver::acknowledge() {
  const std::uint32_t status = read(kInterruptStatus);
  write(kInterruptAck, status);
  return status;
}

// ---- MockConsoleDriver

MockConsoleDriver::MockConsoleDriver(VirtioMmio& device, MockRam& ram, std::uint64_t features)
    : driver_(device, ram), features_(features) {}

void MockConsoleDriver::kick(std::uint32_t queue) {
  if (!queues_[queue]->needs_kick()) return;
  ++kicks;
  driver_.write(kQueueNotify, queue);
}

void MockConsoleDriver::probe(std::uint16_t size, std::uint16_t pages) {
  pages_ = pages;
  queues_.clear();
  pages_of_.clear();
  free_pages_.clear();
  ASSERT_EQ(driver_.offered_features() & features_, features_);
  ASSERT_TRUE(driver_.negotiate(features_));
  ports = static_cast<std::uint32_t>(read_register(driver_.device(), kConfig + 4, 4));
  const std::uint32_t count = (features_ & kMultiport) != 0 ? 2 * (ports + 1) : 2;
  for (std::uint32_t i = 0; i < count; ++i) {
    queues_.push_back(std::make_unique<MockQueue>(driver_.ram(), size, (features_ & kEventIndexBit) != 0));
    driver_.set_up_queue(i, *queues_.back());
  }
  driver_.driver_ok();
  if ((features_ & kMultiport) == 0) {
    fill(0, pages_);
    return;
  }
  fill(2, pages_);
  control(~0U, 0, 1);
}

void MockConsoleDriver::fill(std::uint32_t queue, std::uint16_t pages) {
  for (std::uint16_t i = 0; i < pages; ++i) {
    const std::uint64_t page = driver_.ram().allocate(page_size, 16);
    const auto head = queues_[queue]->add(page, page_size, true);
    ASSERT_TRUE(head.has_value());
    pages_of_[queue][*head] = page;
    kick(queue);
  }
}

void MockConsoleDriver::control(std::uint32_t port, std::uint16_t event, std::uint16_t value) {
  auto& free_pages = free_pages_[3];
  while (const auto used = control_out().take_used()) {
    free_pages.push_back(pages_of_[3][used->first]);
    control_out().release(used->first);
  }
  if (free_pages.empty()) free_pages.push_back(driver_.ram().allocate(8, 16));
  const std::uint64_t at = free_pages.back();
  free_pages.pop_back();
  driver_.ram().put(at, port);
  driver_.ram().put(at + 4, event);
  driver_.ram().put(at + 6, value);
  const auto head = control_out().add(at, 8, false);
  ASSERT_TRUE(head.has_value());
  pages_of_[3][*head] = at;
  kick(3);
}

void MockConsoleDriver::interrupt() {
  driver_.acknowledge();
  if ((features_ & kMultiport) == 0) return;
  control_in().want_interrupt();
  while (const auto used = control_in().take_used()) {
    const std::uint64_t page = pages_of_[2][used->first];
    hear(driver_.ram().text(page, used->second));
    control_in().release(used->first);
    pages_of_[2][*control_in().add(page, page_size, true)] = page;
    kick(2);
    control_in().want_interrupt();
  }
}

void MockConsoleDriver::hear(const std::string& message) {
  std::uint32_t port = 0;
  std::uint16_t event = 0;
  std::uint16_t value = 0;
  ASSERT_GE(message.size(), 8U);
  std::memcpy(&port, message.data(), 4);
  std::memcpy(&event, message.data() + 4, 2);
  std::memcpy(&value, message.data() + 6, 2);
  const std::string tail = message.substr(8);
  switch (event) {
    case 1:
      said.push_back(fmt::format("add {}", port));
      fill(port == 0 ? 0 : 2 + 2 * port, pages_);
      control(port, 3, 1);
      break;
    case 4:
      said.push_back(fmt::format("console {}", port));
      open(port);
      break;
    case 5: {
      std::uint16_t size[2] = {};
      ASSERT_EQ(tail.size(), sizeof size);
      std::memcpy(size, tail.data(), sizeof size);
      said.push_back(fmt::format("resize {} {}x{}", port, size[0], size[1]));
      break;
    }
    case 6:
      said.push_back(fmt::format("open {} {}", port, value));
      break;
    case 7:
      said.push_back(fmt::format("name {} {}", port, tail));
      break;
    default:
      ADD_FAILURE() << "event " << event;
  }
}

bool MockConsoleDriver::write(std::uint32_t port, std::string_view text) {
  const std::uint32_t queue = port == 0 ? 1 : 3 + 2 * port;
  auto& free_pages = free_pages_[queue];
  reclaim(port);
  if (free_pages.empty()) free_pages.push_back(driver_.ram().allocate(page_size, 16));
  const std::uint64_t page = free_pages.back();
  driver_.ram().put_text(page, text.substr(0, page_size));
  const auto head = output(port).add(page, static_cast<std::uint32_t>(text.size()), false);
  if (!head) return false;
  free_pages.pop_back();
  pages_of_[queue][*head] = page;
  kick(queue);
  return true;
}

int MockConsoleDriver::reclaim(std::uint32_t port) {
  const std::uint32_t queue = port == 0 ? 1 : 3 + 2 * port;
  int count = 0;
  while (const auto used = output(port).take_used()) {
    free_pages_[queue].push_back(pages_of_[queue][used->first]);
    output(port).release(used->first);
    ++count;
  }
  return count;
}

std::string MockConsoleDriver::received(std::uint32_t port, bool refill) {
  const std::uint32_t queue = port == 0 ? 0 : 2 + 2 * port;
  std::string text;
  std::vector<std::uint64_t> pages;
  while (const auto used = input(port).take_used()) {
    const std::uint64_t page = pages_of_[queue][used->first];
    text += driver_.ram().text(page, used->second);
    input(port).release(used->first);
    pages.push_back(page);
  }
  input(port).want_interrupt();
  for (const std::uint64_t page : pages) {
    if (!refill) break;
    pages_of_[queue][*input(port).add(page, page_size, true)] = page;
    kick(queue);
  }
  return text;
}

}  // namespace ktstr::kvm::mock
