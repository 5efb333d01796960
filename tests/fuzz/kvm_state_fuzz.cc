// A file with a guest's state, with any bytes: it is refused, or its devices are loaded and then used as a
// running guest and its host use them. Nothing may crash, hang, or touch memory outside of RAM. What was
// loaded is saved as it was. The first byte says whether the input is a file as it is, or changes to a good
// one.
#include <string>
#include <vector>

#include "host/machine/kvm/devices/i8042_reset.h"
#include "host/machine/kvm/devices/io_apic.h"
#include "host/machine/kvm/devices/serial_16550.h"
#include "host/machine/kvm/devices/virtio_console.h"
#include "host/machine/kvm/devices/virtio_mmio.h"
#include "host/machine/kvm/state_file.h"
#include "proto/kvm_state.pb.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/machine/kvm/sample_state.h"

using namespace ktstr;
using namespace ktstr::kvm;
using ktstr::fuzz::check;
using ktstr::fuzz::FuzzInput;

namespace {

constexpr std::uint64_t kGpa = 0x1000;
constexpr std::uint64_t kRam = 0x10000;

struct Line : InterruptLine {
  void trigger() override { ++edges; }
  std::uint64_t edges = 0;
};

struct Sink : MessageSink {
  void set_routes(std::span<const std::optional<InterruptMessage>> routes) override {
    check(routes.size() == IoApic::kPins, "routes");
  }
  void send(const InterruptMessage&) override {}
};

// Puts a device's state in, and out again.
template <class Device, class Message>
bool survives(Device& device, const Message& message) {
  if (!device.load(message)) return false;
  Message again;
  device.save(again);
  check(again.SerializeAsString() == message.SerializeAsString(),
        "a state changes when it is loaded and saved");
  return true;
}

void use(const v1::KvmState& state, FuzzInput& input) {
  std::vector<std::uint64_t> words(kRam / 8);
  const auto bytes = std::as_writable_bytes(std::span(words));
  const std::string_view contents = input.take(kRam);
  std::ranges::copy(std::as_bytes(std::span(contents)), bytes.begin());
  const GuestRamView view({{.gpa = kGpa, .host = bytes}});
  Line line;
  Sink sink;
  Serial16550 serial(line, [] {});
  I8042Reset i8042([] {});
  IoApic io_apic(sink);
  VirtioConsole console({{.name = "", .is_console = true}, {.name = "ktstr.frames", .is_console = false}});
  VirtioMmio registers(console, view, line, [] {});
  std::uint64_t out = 0;
  for (std::size_t port = 0; port < 2; ++port)
    console.set_receiver(port, [&out](std::span<const std::byte> received) { out += received.size(); });

  if (survives(serial, state.serial())) serial.repeat_edge();
  survives(i8042, state.i8042());
  if (state.has_io_apic() && survives(io_apic, state.io_apic())) {
    for (unsigned vector = 0; vector < 256; ++vector)
      io_apic.end_of_interrupt(static_cast<std::uint8_t>(vector));
    for (std::uint32_t pin = 0; pin < IoApic::kPins; ++pin) io_apic.set_line(pin, pin % 2 == 0);
  }
  if (!survives(console, state.console()) || !survives(registers, state.console_registers())) return;
  registers.repeat_edge();
  for (int i = 0; i < 8; ++i) registers.service();
  [[maybe_unused]] const auto sent = console.send(1, "hello");
  for (int i = 0; i < 8; ++i) registers.service();
  // What the driver does then is virtio_fuzz.cc's; here only that it gets an answer.
  for (std::uint64_t offset = 0; offset < 0x100; offset += 4) {
    std::uint32_t value = 0;
    registers.read(offset, std::as_writable_bytes(std::span(&value, 1)));
  }
  console.drop_unread();
  check(console.unread(0) == 0 && console.unread(1) == 0, "bytes are left");
}

// A value for one of a good state's fields.
void change(v1::KvmState& state, FuzzInput& input) {
  v1::VirtioMmioState& registers = *state.mutable_console_registers();
  v1::ConsolePortState& port = *state.mutable_console()->mutable_ports(static_cast<int>(input.number(1) % 2));
  v1::VirtqueueState& queue = *registers.mutable_queues(static_cast<int>(input.number(1) % 6));
  const auto value = input.number(4);
  const auto small = static_cast<std::uint32_t>(value);
  switch (input.number(1) % 12) {
    case 0:
      registers.set_status(small);
      break;
    case 1:
      registers.set_driver_features(std::uint64_t{1} << 32 | value);
      break;
    case 2:
      queue.set_ready(true);
      queue.set_size(1U << small % 9);
      queue.set_descriptors(kGpa + (small >> 4 & 0xfff0));
      queue.set_available(kGpa + (small >> 12 & 0xfffe));
      queue.set_used(kGpa + (small >> 8 & 0xfffc));
      break;
    case 3:
      queue.set_size(small);
      break;
    case 4:
      queue.set_descriptors(input.number(8));
      break;
    case 5:
      queue.set_next_available(small);
      queue.set_next_used(small >> 16);
      break;
    case 6:
      port.set_due(small);
      port.set_open(true);
      break;
    case 7:
      port.set_unread(std::string(input.take(small % 256)));
      port.set_received(std::string(input.take(small % 256)));
      break;
    case 8:
      state.mutable_console()->set_multiport(true);
      break;
    case 9:
      state.mutable_serial()->set_modem_control(small);
      state.mutable_serial()->set_interrupt_enable(2);
      state.mutable_serial()->set_transmitter_pending(true);
      break;
    case 10:
      state.clear_chip();
      while (state.mutable_io_apic()->entries_size() < static_cast<int>(IoApic::kPins))
        state.mutable_io_apic()->add_entries(input.number(8));
      state.mutable_io_apic()->set_lines(small & 0xffffff);
      break;
    default:
      // As a driver leaves it that is ready.
      registers.set_status(15);
      registers.set_driver_features(std::uint64_t{1} << 32 | (value & 0x30000002));
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  v1::KvmState state;
  if (input.number(1) % 2 == 0) {
    const auto parsed = parse_kvm_state(input.rest(), state);
    if (!parsed) {
      check(!parsed.error().to_string().empty(), "an error without words");
      return 0;
    }
    state.DiscardUnknownFields();
    FuzzInput none(nullptr, 0);
    use(state, none);
    return 0;
  }
  state = tiny::sample_state();
  for (std::uint64_t changes = input.number(1) % 32; changes > 0; --changes) change(state, input);
  v1::KvmState read;
  const auto parsed = parse_kvm_state(state.SerializeAsString(), read);
  check(parsed.has_value(), "a state whose devices only are odd is refused as a file");
  use(read, input);
  return 0;
}
