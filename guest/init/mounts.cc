#include "guest/init/mounts.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace ktstr::guest {
namespace {

struct Mount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
};

constexpr unsigned long kSafe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

constexpr std::array<Mount, 3> kEssentials = {{
    {"proc", "/proc", kSafe, ""},
    {"sysfs", "/sys", kSafe, ""},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
}};

constexpr std::array<Mount, 8> kRest = {{
    // The scheduler's output comes over a pseudo terminal.
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"cgroup2", "/sys/fs/cgroup", kSafe, ""},
    {"bpf", "/sys/fs/bpf", kSafe, "mode=0700"},
    // The Rust schedulers attach tracepoints through one of these two.
    {"tracefs", "/sys/kernel/tracing", kSafe, ""},
    {"debugfs", "/sys/kernel/debug", kSafe, ""},
}};

Expected<> mount_one(const Mount& mount) {
  ::mkdir(mount.target, 0755);  // exists, or mount(2) says what is wrong
  if (::mount(mount.type, mount.target, mount.type, mount.flags, mount.options) == 0 || errno == EBUSY)
    return {};
  return fail_errno(ErrorCode::kKernelLacks,
                    std::string("cannot mount ") + mount.type + " at " + mount.target);
}

}  // namespace

Expected<> mount_essentials() {
  for (const Mount& mount : kEssentials) {
    if (Expected<> mounted = mount_one(mount); !mounted) return mounted;
  }
  return {};
}

void mount_rest(std::vector<std::string>& warnings) {
  for (const Mount& mount : kRest) {
    if (const Expected<> mounted = mount_one(mount); !mounted)
      warnings.push_back(mounted.error().to_string());
  }
  ::mkdir("/var", 0755);
  if (::symlink("/run", "/var/run") != 0 && errno != EEXIST) {
    warnings.push_back(
        Error::from_errno(ErrorCode::kHost, "cannot link /var/run to /run", errno).to_string());
  }
}

}  // namespace ktstr::guest
