#include "guest/init/virtio_port.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <filesystem>
#include <optional>
#include <system_error>

#include "common/quote.h"
#include "common/read_file.h"
#include "guest/scenario/supervisor.h"

namespace ktstr::guest {
namespace {

constexpr const char* kSysfs = "/sys/class/virtio-ports";
// Events are only the fast way: without CONFIG_NET, or when one is lost, the folder is read again this often.
constexpr int kRescanMs = 20;

// A socket that becomes readable when a device appears or changes (lib/kobject_uevent.c); empty where there
// is no netlink.
UniqueFd open_uevents() {
  UniqueFd socket(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;
  if (socket && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    socket.reset();
  return socket;
}

void wait_for_event(int uevents) {
  pollfd entry{.fd = uevents, .events = POLLIN, .revents = 0};
  ::poll(&entry, 1, kRescanMs);
  std::array<char, 4096> drain{};
  while (uevents >= 0 && ::recv(uevents, drain.data(), drain.size(), 0) > 0) {
  }
}

std::string list_ports(const std::string& sysfs) {
  std::string list;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(sysfs, error)) {
    const Expected<std::string> name = read_attribute(entry.path().string() + "/name");
    list += (list.empty() ? "" : ", ") + entry.path().filename().string() + " " +
            (name ? quote(*name) : "without name");
  }
  return list.empty() ? "there are none" : "there are " + list;
}

}  // namespace

std::string find_virtio_port(const std::string& sysfs, const std::string& port_name) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(sysfs, error)) {
    const Expected<std::string> name = read_attribute(entry.path().string() + "/name");
    if (name && *name == port_name) return entry.path().filename().string();
  }
  return {};
}

Expected<UniqueFd> open_virtio_port(const std::string& port_name, std::chrono::nanoseconds limit) {
  const MonotonicTime deadline = monotonic_now() + limit;
  // Made only when the port is not there yet, which it mostly is.
  std::optional<UniqueFd> uevents;
  while (true) {
    const std::string device = find_virtio_port(kSysfs, port_name);
    if (!device.empty()) {
      const std::string path = "/dev/" + device;
      UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
      if (fd) return fd;
      // devtmpfs makes the node before it announces the device; a node that is missing for long is an error.
      if (errno != ENOENT || monotonic_now() >= deadline)
        return fail_errno(ErrorCode::kHost, "cannot open " + path);
    }
    if (monotonic_now() >= deadline) {
      return fail(ErrorCode::kHost,
                  "no virtio-console port is named " + quote(port_name) + ": " + list_ports(kSysfs));
    }
    if (uevents) {
      wait_for_event(uevents->get());
    } else {
      uevents = open_uevents();  // and look again: it may have come before this
    }
  }
}

}  // namespace ktstr::guest
