#include "guest/init/frame_transport.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "guest/init/crash_reporter.h"
#include "guest/init/debug_port.h"

namespace ktstr::guest {
namespace {

// port_fops_write takes no more at once.
constexpr std::size_t kMaxWrite = 32768;
// How often a port whose host end is closed is looked at again: poll(2) would return at once for ever.
constexpr auto kHangupPause = std::chrono::milliseconds(10);

}  // namespace

PortTransport::PortTransport(UniqueFd fd) : fd_(std::move(fd)) {
  set_blocking(false);
}

ssize_t PortTransport::write(std::span<const char> bytes) {
  return ::write(fd_.get(), bytes.data(), std::min(bytes.size(), kMaxWrite));
}

ssize_t PortTransport::read(std::span<std::byte> bytes) {
  return ::read(fd_.get(), bytes.data(), bytes.size());
}

bool PortTransport::wait_writable(MonotonicTime deadline) {
  while (true) {
    const MonotonicTime left = deadline - monotonic_now();
    if (left <= MonotonicTime::zero()) return false;
    pollfd entry{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    ::poll(&entry, 1, static_cast<int>(std::min<std::int64_t>(milliseconds, 1000)));
    if ((entry.revents & (POLLHUP | POLLERR)) != 0) {
      std::this_thread::sleep_for(kHangupPause);
    } else if ((entry.revents & POLLOUT) != 0) {
      return true;
    }
  }
}

void PortTransport::set_blocking(bool on) {
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (flags >= 0) ::fcntl(fd_.get(), F_SETFL, on ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

void PortTransport::announce_to_crash_reporter() const {
  set_crash_frame_port(fd_.get());
}

ssize_t DebugPortTransport::write(std::span<const char> bytes) {
  return write_debug_port(port_, bytes) ? static_cast<ssize_t>(bytes.size()) : -1;
}

ssize_t DebugPortTransport::read(std::span<std::byte> /*bytes*/) {
  errno = EAGAIN;
  return -1;
}

void DebugPortTransport::announce_to_crash_reporter() const {
  set_crash_debug_port(port_);
}

}  // namespace ktstr::guest
