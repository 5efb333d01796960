// Finding a named virtio-console port.
#pragma once

#include <chrono>
#include <string>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr::guest {

// The device name ("vport1p2") of the port whose `name` attribute below `sysfs` is `port_name`; "" when there
// is none (yet).
std::string find_virtio_port(const std::string& sysfs, const std::string& port_name);

// Opens the port for reading and writing, non-blocking. Ports and their names appear while the host answers
// the driver's control messages, so this waits for kernel events up to `limit` of guest time. Error kHost:
// which ports there were.
Expected<UniqueFd> open_virtio_port(const std::string& port_name, std::chrono::nanoseconds limit);

}  // namespace ktstr::guest
