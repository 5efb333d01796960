// A guest without a vCPU: RAM in plain memory, and drivers that touch it and the registers as Linux' do
// (drivers/virtio/virtio_ring.c, virtio_mmio.c, drivers/char/virtio_console.c).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/machine/kvm/devices/bus.h"
#include "host/machine/kvm/devices/guest_ram_view.h"
#include "host/machine/kvm/devices/virtio_mmio.h"
#include "host/machine/kvm/devices/virtqueue.h"

namespace ktstr::kvm::mock {

// Counts edges.
class MockLine : public InterruptLine {
 public:
  void trigger() override { ++edges; }
  std::atomic<int> edges{0};
};

// Reads and writes a register of `bytes` bytes.
std::uint64_t read_register(BusDevice& device, std::uint64_t offset, std::size_t bytes);
void write_register(BusDevice& device, std::uint64_t offset, std::uint64_t value, std::size_t bytes);

// One region of RAM at `gpa`, zeroed, and a pointer to what is not handed out yet.
class MockRam {
 public:
  MockRam(std::uint64_t gpa, std::uint64_t size);

  GuestRamView view() const { return GuestRamView({region()}); }
  RamRegion region() const { return {.gpa = gpa_, .host = host()}; }
  std::uint64_t begin() const { return gpa_; }
  std::uint64_t end() const { return gpa_ + size_; }
  std::uint64_t allocate(std::uint64_t size, std::uint64_t alignment = 16);

  template <class T>
  T get(std::uint64_t gpa) const {
    T value;
    std::copy_n(at(gpa), sizeof value, reinterpret_cast<std::byte*>(&value));
    return value;
  }
  template <class T>
  void put(std::uint64_t gpa, T value) {
    std::copy_n(reinterpret_cast<const std::byte*>(&value), sizeof value, at(gpa));
  }
  std::string text(std::uint64_t gpa, std::uint64_t size) const;
  void put_text(std::uint64_t gpa, std::string_view text);
  // What both sides synchronise by.
  std::uint16_t load(std::uint64_t gpa) const;
  void store(std::uint64_t gpa, std::uint16_t value);

 private:
  std::span<std::byte> host() const;
  std::byte* at(std::uint64_t gpa) const { return host().data() + (gpa - gpa_); }

  std::uint64_t gpa_;
  std::uint64_t size_;
  std::uint64_t next_;
  mutable std::vector<std::uint64_t> words_;  // aligned as mapped memory is
};

struct MockDescriptor {
  std::uint64_t gpa = 0;
  std::uint32_t size = 0;
  std::uint16_t flags = 0;
  std::uint16_t next = 0;
};
inline constexpr std::uint16_t kNext = 1;
inline constexpr std::uint16_t kWrite = 2;
inline constexpr std::uint16_t kIndirect = 4;

// The driver's end of a queue.
class MockQueue {
 public:
  MockQueue(MockRam& ram, std::uint16_t size, bool event_index);

  // As new, in the same memory.
  void restart();
  std::uint16_t size() const { return size_; }
  std::uint64_t descriptors() const { return descriptors_; }
  std::uint64_t available() const { return available_; }
  std::uint64_t used() const { return used_; }

  void set(std::uint16_t index, MockDescriptor descriptor);
  // Puts a head into the available ring and raises the index.
  void offer(std::uint16_t head);
  void set_available_index(std::uint16_t index) { ram_->store(available_ + 2, index); }
  // Whether the device wants a kick for what was offered since the last call.
  bool needs_kick();
  // Takes the next answer: head and bytes written.
  std::optional<std::pair<std::uint16_t, std::uint32_t>> take_used();
  bool has_used() const { return ram_->load(used_ + 2) != taken_; }
  // The driver's wish for interrupts: when an answer comes after those taken.
  void want_interrupt() { ram_->store(available_ + 4 + 2 * size_, taken_); }
  void set_available_flags(std::uint16_t flags) { ram_->store(available_, flags); }

  // A chain of one buffer at a free descriptor, whose number is returned; nullopt: none is free.
  std::optional<std::uint16_t> add(std::uint64_t gpa, std::uint32_t size, bool writable);
  void release(std::uint16_t head) { free_.push_back(head); }

  // The same as the transport sees it.
  VirtqueueState state() const;

 private:
  MockRam* ram_;
  std::uint16_t size_;
  bool event_index_;
  std::uint64_t descriptors_;
  std::uint64_t available_;
  std::uint64_t used_;
  std::uint16_t offered_ = 0;
  std::uint16_t kicked_ = 0;
  std::uint16_t taken_ = 0;
  std::vector<std::uint16_t> free_;
};

// Brings a device up through its registers.
class MockDriver {
 public:
  MockDriver(VirtioMmio& device, MockRam& ram) : device_(&device), ram_(&ram) {}

  std::uint32_t read(std::uint64_t offset) {
    return static_cast<std::uint32_t>(read_register(*device_, offset, 4));
  }
  void write(std::uint64_t offset, std::uint32_t value) { write_register(*device_, offset, value, 4); }
  std::uint64_t offered_features();
  void write_features(std::uint64_t features);
  // Up to FEATURES_OK; whether it stayed set.
  bool negotiate(std::uint64_t features);
  MockQueue make_queue(std::uint16_t size, bool event_index) { return {*ram_, size, event_index}; }
  void set_up_queue(std::uint32_t index, const MockQueue& queue);
  void driver_ok();
  // As the interrupt handler: reads and acknowledges.
  std::uint32_t acknowledge();

  VirtioMmio& device() { return *device_; }
  MockRam& ram() { return *ram_; }

 private:
  VirtioMmio* device_;
  MockRam* ram_;
};

// Status bits and registers, by their names in the specification.
inline constexpr std::uint32_t kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8,
                               kNeedsReset = 64, kFailed = 128;
inline constexpr std::uint64_t kMagicValue = 0x000, kVersion = 0x004, kDeviceId = 0x008,
                               kDeviceFeatures = 0x010, kDeviceFeaturesSel = 0x014, kDriverFeatures = 0x020,
                               kDriverFeaturesSel = 0x024, kQueueSel = 0x030, kQueueNumMax = 0x034,
                               kQueueNum = 0x038, kQueueReady = 0x044, kQueueNotify = 0x050,
                               kInterruptStatus = 0x060, kInterruptAck = 0x064, kStatus = 0x070,
                               kQueueDescLow = 0x080, kQueueDescHigh = 0x084, kQueueDriverLow = 0x090,
                               kQueueDriverHigh = 0x094, kQueueDeviceLow = 0x0a0, kQueueDeviceHigh = 0x0a4,
                               kShmLenLow = 0x0b0, kQueueReset = 0x0c0, kConfigGeneration = 0x0fc,
                               kConfig = 0x100;
inline constexpr std::uint64_t kVersion1 = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kRingReset = std::uint64_t{1} << 40;
inline constexpr std::uint64_t kEventIndexBit = std::uint64_t{1} << 29;
inline constexpr std::uint64_t kIndirectBit = std::uint64_t{1} << 28;
inline constexpr std::uint64_t kMultiport = 1 << 1;

// Linux' virtio_console: fills the input queues with pages, answers control messages, opens ports.
class MockConsoleDriver {
 public:
  MockConsoleDriver(VirtioMmio& device, MockRam& ram, std::uint64_t features);

  // Probe: up to DEVICE_READY. Queues of `size` slots, `pages` buffers in each input queue.
  void probe(std::uint16_t size = 64, std::uint16_t pages = 4);
  // The interrupt handler and the work behind it: control messages and what ports received.
  void interrupt();
  void open(std::uint32_t port) { control(port, 6, 1); }
  void close(std::uint32_t port) { control(port, 6, 0); }
  void control(std::uint32_t port, std::uint16_t event, std::uint16_t value);
  // Adds one chain for `port`; false: the queue is full. The text stays where it is until it was taken.
  bool write(std::uint32_t port, std::string_view text);
  // Gives back what the device took; how many chains.
  int reclaim(std::uint32_t port);
  // Takes what has arrived at a port and, when `refill`, offers the buffers again.
  std::string received(std::uint32_t port, bool refill = true);

  MockDriver& driver() { return driver_; }
  MockQueue& queue(std::uint32_t index) { return *queues_[index]; }
  MockQueue& input(std::uint32_t port) { return queue(port == 0 ? 0 : 2 + 2 * port); }
  MockQueue& output(std::uint32_t port) { return queue(port == 0 ? 1 : 3 + 2 * port); }
  MockQueue& control_in() { return queue(2); }
  MockQueue& control_out() { return queue(3); }

  // What the device said, as "add 0", "console 0", "name 1 ktstr.frames", "open 1 1", "resize 0 80x25".
  std::vector<std::string> said;
  int kicks = 0;
  std::uint32_t ports = 0;  // max_nr_ports
  std::uint32_t page_size = 4096;

 private:
  void kick(std::uint32_t queue);
  void hear(const std::string& message);
  void fill(std::uint32_t queue, std::uint16_t pages);

  MockDriver driver_;
  std::uint64_t features_;
  std::uint16_t pages_ = 0;
  std::vector<std::unique_ptr<MockQueue>> queues_;
  std::map<std::uint32_t, std::map<std::uint16_t, std::uint64_t>> pages_of_;  // queue -> head -> page
  std::map<std::uint32_t, std::vector<std::uint64_t>> free_pages_;            // of an output queue
};

}  // namespace ktstr::kvm::mock
