// A virtio console under a driver that does anything: the input is a list of register accesses, writes to
// RAM, services and sends, with a few shortcuts (a device brought up, a chain offered) that the fuzzer would
// take long to find. Nothing may crash, hang, or touch memory outside of RAM, which AddressSanitizer watches;
// what leaves is bounded; an error stops the device until a reset.
#include <cstring>
#include <string>
#include <vector>

#include "host/machine/kvm/devices/virtio_console.h"
#include "host/machine/kvm/devices/virtio_mmio.h"
#include "tests/fuzz/fuzz_input.h"

using namespace ktstr;
using namespace ktstr::kvm;
using ktstr::fuzz::check;
using ktstr::fuzz::FuzzInput;

namespace {

constexpr std::uint64_t kLowGpa = 0x1000;  // two adjacent regions and one behind a hole
constexpr std::uint64_t kRegion = 0x4000;
constexpr std::uint64_t kHighGpa = 0x100000000;

struct Line : InterruptLine {
  void trigger() override { ++edges; }
  std::uint64_t edges = 0;
};

class Guest {
 public:
  Guest() {
    for (std::size_t port = 0; port < 2; ++port)
      console_.set_receiver(port, [this](std::span<const std::byte> bytes) { out_ += bytes.size(); });
  }

  void run(FuzzInput& input) {
    for (int steps = 0; !input.empty() && steps < 400; ++steps) step(input);
    for (int i = 0; i < 4; ++i) serve();
  }

 private:
  void write(std::uint64_t offset, std::uint32_t value) {
    device_.write(offset, std::as_bytes(std::span(&value, 1)));
  }
  std::uint32_t read(std::uint64_t offset) {
    std::uint32_t value = 0;
    device_.read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <class T>
  void put(std::uint64_t gpa, T value) {
    view_.write(gpa, std::as_bytes(std::span(&value, 1)));
  }

  // Tables of queue `index`, 16 slots, in the low regions.
  static std::uint64_t descriptors(std::uint64_t index) { return kLowGpa + index * 0x400; }
  static std::uint64_t available(std::uint64_t index) { return descriptors(index) + 0x100; }
  static std::uint64_t used(std::uint64_t index) { return descriptors(index) + 0x200; }

  void bring_up(std::uint32_t features) {
    write(0x070, 0);
    write(0x070, 1);
    write(0x070, 3);
    write(0x024, 1);
    write(0x020, 0x101);  // VERSION_1, RING_RESET
    write(0x024, 0);
    write(0x020, features & 0x30000002);
    write(0x070, 11);
    for (std::uint32_t i = 0; i < 6; ++i) {
      write(0x030, i);
      write(0x038, 16);
      write(0x080, static_cast<std::uint32_t>(descriptors(i)));
      write(0x090, static_cast<std::uint32_t>(available(i)));
      write(0x0a0, static_cast<std::uint32_t>(used(i)));
      write(0x044, 1);
      offered_[i] = 0;
      put(available(i) + 2, std::uint16_t{0});
    }
    write(0x070, 15);
  }

  void offer(std::uint64_t queue, std::uint16_t head) {
    put(available(queue) + 4 + 2 * (offered_[queue] % 16U), head);
    put(available(queue) + 2, ++offered_[queue]);
  }

  void serve() {
    const bool broken = (read(0x070) & 0x40) != 0;
    const std::uint64_t edges = line_.edges;
    const std::uint64_t out = out_;
    const bool more = device_.service();
    check(out_ - out <= 2 * (VirtioConsole::kServiceBytes + VirtioConsole::kMaxChain), "too much at once");
    if (broken) check(!more && line_.edges == edges && out_ == out, "a device in need of a reset works");
    if ((read(0x070) & 0x44) == 0x44) check(device_.error().has_value(), "an error without a reason");
  }

  void step(FuzzInput& input) {
    static constexpr std::uint64_t bases[] = {
        0, kLowGpa, kLowGpa + kRegion, kHighGpa, kHighGpa + kRegion, ~std::uint64_t{0} - 0xfff};
    const auto address = [&] { return bases[input.number(1) % std::size(bases)] + input.number(2); };
    switch (input.number(1) % 12) {
      case 0:
        write(input.number(1) % 64 * 4, static_cast<std::uint32_t>(input.number(4)));
        break;
      case 1: {
        std::uint64_t value = input.number(8);
        const std::size_t size = std::size_t{1} << input.number(1) % 4;
        const std::uint64_t offset = input.number(2) % (VirtioMmio::kSize - 8);
        const auto bytes = std::as_writable_bytes(std::span(&value, 1)).first(size);
        input.number(1) % 2 == 0 ? device_.read(offset, bytes) : device_.write(offset, bytes);
        break;
      }
      case 2: {
        const std::uint64_t gpa = address();
        const std::string_view bytes = input.take(input.number(1) % 64);
        const bool in_ram = view_.contains(gpa, bytes.size());
        check(view_.write(gpa, std::as_bytes(std::span(bytes))) == in_ram, "contains() is wrong");
        break;
      }
      case 3:
        bring_up(static_cast<std::uint32_t>(input.number(4)));
        break;
      case 4: {  // a descriptor, in a queue's table or anywhere
        const std::uint64_t table = input.number(1);
        const std::uint64_t at = table < 128 ? descriptors(table % 6) : address() & ~std::uint64_t{15};
        const std::uint64_t slot = at + 16 * (input.number(1) % 32);
        put(slot, address());
        put(slot + 8,
            static_cast<std::uint32_t>(input.number(1) % 4 == 0 ? input.number(4) : input.number(1) * 16));
        put(slot + 12, static_cast<std::uint16_t>(input.number(1) % 8));
        put(slot + 14, static_cast<std::uint16_t>(input.number(1) % 20));
        break;
      }
      case 5:
        offer(input.number(1) % 6, static_cast<std::uint16_t>(input.number(1) % 18));
        break;
      case 6: {  // a control message in a chain of its own
        const std::uint64_t gpa = kLowGpa + 0x3800;
        put(gpa, static_cast<std::uint32_t>(input.number(1)));
        put(gpa + 4, static_cast<std::uint16_t>(input.number(1) % 9));
        put(gpa + 6, static_cast<std::uint16_t>(input.number(1) % 3));
        put(descriptors(3), gpa);
        put(descriptors(3) + 8, std::uint32_t{8});
        put(descriptors(3) + 12, std::uint32_t{0});
        offer(3, 0);
        break;
      }
      case 7: {  // an empty buffer
        const std::uint64_t queue = input.number(1) % 6;
        put(descriptors(queue) + 16, kHighGpa + input.number(1));
        put(descriptors(queue) + 24, static_cast<std::uint32_t>(input.number(2)));
        put(descriptors(queue) + 28, std::uint32_t{2});
        offer(queue, 1);
        break;
      }
      case 8:
      case 9:
        serve();
        break;
      case 10: {
        const std::size_t port = input.number(1) % 3;
        const std::string bytes(input.number(2), 'x');
        const std::size_t before = console_.unread(port);
        const bool sent = console_.send(port, bytes).has_value();
        check(sent == (port < 2), "send() fails on the wrong occasion");
        if (sent) check(console_.unread(port) == before + bytes.size(), "sent bytes are lost");
        break;
      }
      default:
        if (input.number(1) % 2 == 0) {
          device_.config_changed();
        } else {
          write(0x064, read(0x060));
        }
    }
  }

  std::vector<std::byte> low_ = std::vector<std::byte>(kRegion);
  std::vector<std::byte> middle_ = std::vector<std::byte>(kRegion);
  std::vector<std::byte> high_ = std::vector<std::byte>(kRegion);
  GuestRamView view_{{{.gpa = kLowGpa, .host = low_},
                      {.gpa = kLowGpa + kRegion, .host = middle_},
                      {.gpa = kHighGpa, .host = high_}}};
  Line line_;
  VirtioConsole console_{{{.name = "", .is_console = true, .size = ConsoleSize{.columns = 80, .rows = 25}},
                          {.name = "ktstr.frames"}}};
  VirtioMmio device_{console_, view_, line_, [] {}};
  std::uint16_t offered_[6] = {};
  std::uint64_t out_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  Guest().run(input);
  return 0;
}
