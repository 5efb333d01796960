// The file systems a scheduler and a scenario need.
#pragma once

#include <string>
#include <vector>

#include "common/error.h"

namespace ktstr::guest {

// Mounts proc, sysfs and devtmpfs, without which there is nothing to work with. What is already mounted
// stays.
Expected<> mount_essentials();

// Mounts the rest: devpts, tmpfs on /dev/shm, /run and /tmp, cgroup2, bpf, tracefs and debugfs at their usual
// places, and links /var/run to /run. Each failure adds one sentence to `warnings`. Takes some ten
// milliseconds of waiting under emulation (cgroup2 waits for an RCU grace period), so it is done beside other
// things.
void mount_rest(std::vector<std::string>& warnings);

}  // namespace ktstr::guest
