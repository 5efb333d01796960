#include "host/machine/kvm/devices/virtio_console.h"

#include <linux/virtio_console.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <fmt/core.h>

namespace ktstr::kvm {
namespace {

constexpr std::size_t kControlIn = 2;  // queues
constexpr std::size_t kControlOut = 3;
constexpr std::size_t kControlBytes = sizeof(virtio_console_control);
constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

// Messages for the driver, in the order in which it has to get them.
enum Due : std::uint8_t {
  kAdd = 1 << 0,
  kConsole = 1 << 1,
  kResize = 1 << 2,
  kName = 1 << 3,
  kOpen = 1 << 4,
};

// Port 0 has the first two queues, the control messages the next two, then come the other ports.
std::size_t input_queue(std::size_t port) {
  return port == 0 ? 0 : 2 + 2 * port;
}
std::size_t output_queue(std::size_t port) {
  return input_queue(port) + 1;
}

// What may be done before it is somebody else's turn.
struct Budget {
  std::uint64_t bytes = VirtioConsole::kServiceBytes;
  std::uint32_t chains = VirtioConsole::kServiceChains;

  bool left() const { return bytes > 0 && chains > 0; }
  void spend(std::uint64_t used) {
    bytes -= std::min(bytes, used);
    --chains;
  }
};

}  // namespace

// ---- ByteQueue

void ByteQueue::append(std::string_view bytes) {
  if (bytes.empty()) return;
  size_ += bytes.size();
  if (!pieces_.empty() && pieces_.back().size() < kPieceBytes) {
    pieces_.back() += bytes;
  } else {
    pieces_.emplace_back(bytes);
  }
}

std::string_view ByteQueue::front(std::size_t size) const {
  if (pieces_.empty()) return {};
  return std::string_view(pieces_.front()).substr(offset_, size);
}

void ByteQueue::remove(std::size_t size) {
  size_ -= size;
  offset_ += size;
  if (!pieces_.empty() && offset_ == pieces_.front().size()) {
    pieces_.pop_front();
    offset_ = 0;
  }
}

// ---- the host's side

VirtioConsole::VirtioConsole(std::vector<ConsolePortSpec> ports) {
  ports_.resize(ports.size());
  for (std::size_t i = 0; i < ports.size(); ++i) {
    ports_[i].spec = std::move(ports[i]);
    ports_[i].spec.name.resize(std::min(ports_[i].spec.name.size(), kMaxName));
  }
  state_ = initial_state();
}

void VirtioConsole::set_receiver(std::size_t port, Receiver receiver) {
  if (port < ports_.size()) ports_[port].receiver = std::move(receiver);
}

Expected<void> VirtioConsole::send(std::size_t port, std::string_view bytes) {
  if (port >= ports_.size()) {
    return ktstr::fail(ErrorCode::kHost,
                       fmt::format("the console has no port {}, only 0 to {}", port, ports_.size() - 1));
  }
  ByteQueue& unread = ports_[port].unread;
  if (bytes.size() > kMaxUnread - unread.size()) {
    return ktstr::fail(
        ErrorCode::kHost,
        fmt::format("the guest has left {} bytes of console port {} unread; {} more are over the limit of {}",
                    unread.size(), port, bytes.size(), kMaxUnread));
  }
  unread.append(bytes);
  request_service();
  return {};
}

std::size_t VirtioConsole::unread(std::size_t port) const {
  return port < ports_.size() ? ports_[port].unread.size() : 0;
}

void VirtioConsole::drop_unread() {
  for (Port& port : ports_) port.unread = {};
}

void VirtioConsole::deliver() {
  for (Port& port : ports_) {
    if (port.received.empty()) continue;
    const std::string bytes = std::exchange(port.received, {});
    if (port.receiver) port.receiver(std::as_bytes(std::span(bytes)));
  }
}

// ---- the driver's side

std::uint32_t VirtioConsole::device_id() const {
  return VIRTIO_ID_CONSOLE;
}
std::uint64_t VirtioConsole::features() const {
  return std::uint64_t{1} << VIRTIO_CONSOLE_F_MULTIPORT;
}
std::size_t VirtioConsole::queue_count() const {
  return 2 * (ports_.size() + 1);
}

void VirtioConsole::read_config(std::uint64_t offset, std::span<std::byte> data) {
  const virtio_console_config config = {
      .cols = 0, .rows = 0, .max_nr_ports = static_cast<std::uint32_t>(ports_.size()), .emerg_wr = 0};
  const auto bytes = std::as_bytes(std::span(&config, 1));
  std::ranges::fill(data, std::byte{0});
  if (offset >= bytes.size()) return;
  const auto part = bytes.subspan(offset, std::min<std::size_t>(data.size(), bytes.size() - offset));
  std::ranges::copy(part, data.begin());
}

// What can be written belongs to features that are not offered.
void VirtioConsole::write_config(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) {}

VirtioConsole::State VirtioConsole::initial_state() const {
  return {.multiport = false, .ports = std::vector<PortState>(ports_.size())};
}

void VirtioConsole::activate(std::uint64_t features) {
  state_.multiport = (features >> VIRTIO_CONSOLE_F_MULTIPORT & 1) != 0;
  // A driver that knows of one port only takes it as a console, without a word.
  if (!state_.multiport) state_.ports.front().open = true;
}

void VirtioConsole::reset() {
  state_ = initial_state();
}

QueueResult<bool> VirtioConsole::service(std::span<Virtqueue> queues) {
  bool more = false;
  const auto run = [&](std::size_t index, auto work) -> QueueResult<void> {
    if (!queues[index].ready()) return {};
    const QueueResult<bool> result = work(queues[index]);
    if (!result) return std::unexpected(result.error());
    more |= *result;
    return {};
  };
  QueueResult<void> done;
  if (state_.multiport) {
    done = run(kControlOut, [&](Virtqueue& queue) { return service_control_out(queue); });
    if (done) done = run(kControlIn, [&](Virtqueue& queue) { return service_control_in(queue); });
  }
  const std::size_t count = state_.multiport ? ports_.size() : 1;
  for (std::size_t i = 0; done && i < count; ++i) {
    done = run(output_queue(i), [&](Virtqueue& queue) { return service_output(queue, ports_[i]); });
    if (done && state_.ports[i].open)
      done = run(input_queue(i), [&](Virtqueue& queue) { return service_input(queue, ports_[i]); });
  }
  if (!done) return std::unexpected(std::move(done.error()));
  return more;
}

// ---- control messages

QueueResult<bool> VirtioConsole::service_control_out(Virtqueue& queue) {
  for (Budget budget; budget.left();) {
    const auto got = queue.pop(chain_);
    if (!got) return got;
    if (!*got) {
      const auto added = queue.want_kick();
      if (!added || !*added) return added;
      budget.spend(0);  // so that an index that moves to and fro does not keep us here
      continue;
    }
    if (chain_.readable_size < kControlBytes) {
      return std::unexpected(fmt::format("queue {}: a control message of {} bytes; it has {}", queue.index(),
                                         chain_.readable_size, kControlBytes));
    }
    virtio_console_control control;
    if (auto read = queue.read(chain_, std::as_writable_bytes(std::span(&control, 1))); !read)
      return std::unexpected(std::move(read.error()));
    take_control_message(control.id, control.event, control.value);
    if (auto pushed = queue.push(chain_.head, 0); !pushed) return std::unexpected(std::move(pushed.error()));
    budget.spend(kControlBytes);
  }
  return true;
}

// What makes no sense is ignored, as a newer driver may say things that we do not know.
void VirtioConsole::take_control_message(std::uint32_t port, std::uint16_t event, std::uint16_t value) {
  if (event == VIRTIO_CONSOLE_DEVICE_READY) {
    if (value != 1) return;
    for (PortState& each : state_.ports) each.due |= kAdd;
    return;
  }
  if (port >= state_.ports.size()) return;
  PortState& state = state_.ports[port];
  const ConsolePortSpec& spec = ports_[port].spec;
  if (event == VIRTIO_CONSOLE_PORT_READY) {
    state.due = 0;
    if (value != 1) return;  // the driver could not set it up
    if (spec.is_console) state.due |= kConsole;
    if (spec.is_console && spec.size) state.due |= kResize;
    if (!spec.name.empty()) state.due |= kName;
    state.due |= kOpen;
  } else if (event == VIRTIO_CONSOLE_PORT_OPEN) {
    state.open = value == 1;
  }
}

std::string VirtioConsole::message(std::size_t port, std::uint8_t due) const {
  const ConsolePortSpec& spec = ports_[port].spec;
  std::uint16_t event = VIRTIO_CONSOLE_PORT_ADD;
  std::uint16_t value = 1;
  std::string tail;
  switch (due) {
    case kConsole:
      event = VIRTIO_CONSOLE_CONSOLE_PORT;
      break;
    case kResize: {
      event = VIRTIO_CONSOLE_RESIZE;
      value = 0;
      const ConsoleSize size = spec.size.value_or(ConsoleSize{});
      const std::uint16_t fields[2] = {size.columns, size.rows};
      tail.assign(reinterpret_cast<const char*>(fields), sizeof fields);
      break;
    }
    case kName:
      event = VIRTIO_CONSOLE_PORT_NAME;
      tail = spec.name;  // without a terminating zero: the driver adds one
      break;
    case kOpen:
      event = VIRTIO_CONSOLE_PORT_OPEN;
      break;
    default:
      break;
  }
  const virtio_console_control control = {
      .id = static_cast<std::uint32_t>(port), .event = event, .value = value};
  return std::string(reinterpret_cast<const char*>(&control), sizeof control) + tail;
}

// Of the first port that has any, its first.
std::optional<std::string> VirtioConsole::take_due_message() {
  for (std::size_t i = 0; i < state_.ports.size(); ++i) {
    std::uint8_t& due = state_.ports[i].due;
    if (due == 0) continue;
    const auto first = static_cast<std::uint8_t>(1U << std::countr_zero(due));
    due = static_cast<std::uint8_t>(due & ~first);
    return message(i, first);
  }
  return std::nullopt;
}

QueueResult<bool> VirtioConsole::service_control_in(Virtqueue& queue) {
  const auto any_due = [&] {
    return std::ranges::any_of(state_.ports, [](const PortState& port) { return port.due != 0; });
  };
  for (Budget budget; any_due();) {
    if (!budget.left()) return true;
    const auto got = queue.pop(chain_);
    if (!got) return got;
    if (!*got) {
      const auto added = queue.want_kick();
      if (!added || !*added) return added;
      budget.spend(0);  // so that an index that moves to and fro does not keep us here
      continue;
    }
    const std::string message = take_due_message().value_or(std::string());
    if (chain_.writable_size < message.size()) {
      return std::unexpected(fmt::format("queue {}: a buffer of {} bytes for a control message of {}",
                                         queue.index(), chain_.writable_size, message.size()));
    }
    if (auto written = queue.write(chain_, std::as_bytes(std::span(message))); !written)
      return std::unexpected(std::move(written.error()));
    if (auto pushed = queue.push(chain_.head, static_cast<std::uint32_t>(message.size())); !pushed)
      return std::unexpected(std::move(pushed.error()));
    budget.spend(message.size());
  }
  if (auto hinted = queue.want_no_kick(); !hinted) return std::unexpected(std::move(hinted.error()));
  return false;
}

// ---- the streams

QueueResult<bool> VirtioConsole::service_output(Virtqueue& queue, Port& port) {
  for (Budget budget; budget.left();) {
    const auto got = queue.pop(chain_);
    if (!got) return got;
    if (!*got) {
      const auto added = queue.want_kick();
      if (!added || !*added) return added;
      budget.spend(0);  // so that an index that moves to and fro does not keep us here
      continue;
    }
    const std::uint64_t size = chain_.readable_size;
    if (size > kMaxChain)
      return std::unexpected(
          fmt::format("queue {}: {} bytes at once; at most {} are taken", queue.index(), size, kMaxChain));
    const std::size_t before = port.received.size();
    port.received.resize(before + size);
    const auto room = std::as_writable_bytes(std::span(port.received)).subspan(before);
    if (auto read = queue.read(chain_, room); !read) return std::unexpected(std::move(read.error()));
    if (auto pushed = queue.push(chain_.head, 0); !pushed) return std::unexpected(std::move(pushed.error()));
    budget.spend(size);
  }
  return true;
}

QueueResult<bool> VirtioConsole::service_input(Virtqueue& queue, Port& port) {
  for (Budget budget; !port.unread.empty();) {
    if (!budget.left()) return true;
    const auto got = queue.pop(chain_);
    if (!got) return got;
    if (!*got) {
      const auto added = queue.want_kick();
      if (!added || !*added) return added;
      budget.spend(0);  // so that an index that moves to and fro does not keep us here
      continue;
    }
    const auto bytes = port.unread.front(std::min(budget.bytes, chain_.writable_size));
    if (auto written = queue.write(chain_, std::as_bytes(std::span(bytes))); !written)
      return std::unexpected(std::move(written.error()));
    if (auto pushed = queue.push(chain_.head, static_cast<std::uint32_t>(bytes.size())); !pushed)
      return std::unexpected(std::move(pushed.error()));
    port.unread.remove(bytes.size());
    budget.spend(bytes.size());
  }
  if (auto hinted = queue.want_no_kick(); !hinted) return std::unexpected(std::move(hinted.error()));
  return false;
}

}  // namespace ktstr::kvm
