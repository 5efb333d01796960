#include "host/machine/kvm/kvm_device.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "common/unique_fd.h"

namespace ktstr::kvm {
namespace {

constexpr mode_t kGroupReadWrite = S_IRGRP | S_IWGRP;
// udev's own rule (50-udev-default.rules) gives the device to this group.
constexpr const char* kUsualGroup = "kvm";

// getpwuid_r and getgrgid_r alike: the name, or the number when there is none.
template <typename Id, typename Entry>
std::string name_of(Id id, int (*look_up)(Id, Entry*, char*, std::size_t, Entry**), char* Entry::*name) {
  std::vector<char> text(std::size_t{64} << 10);
  Entry entry{};
  Entry* found = nullptr;
  if (look_up(id, &entry, text.data(), text.size(), &found) == 0 && found != nullptr) return found->*name;
  return fmt::to_string(id);
}

bool belongs_to(gid_t group) {
  if (getegid() == group) return true;
  std::vector<gid_t> groups(static_cast<std::size_t>(std::max(0, getgroups(0, nullptr))));
  const int count = getgroups(static_cast<int>(groups.size()), groups.data());
  groups.resize(static_cast<std::size_t>(std::max(0, count)));
  return std::ranges::find(groups, group) != groups.end();
}

}  // namespace

DeviceFile look_at_device() {
  DeviceFile device;
  const UniqueFd fd(open(kDevicePath, O_RDWR | O_CLOEXEC));
  if (!fd) device.open_errno = errno;
  device.user = name_of(geteuid(), getpwuid_r, &passwd::pw_name);
  struct stat st {};
  if (stat(kDevicePath, &st) != 0) return device;
  device.exists = true;
  device.mode = st.st_mode & 07777;
  device.owner = name_of(st.st_uid, getpwuid_r, &passwd::pw_name);
  device.group = name_of(st.st_gid, getgrgid_r, &group::gr_name);
  device.in_group = belongs_to(st.st_gid);
  return device;
}

std::string device_trouble(const DeviceFile& device) {
  if (device.open_errno == 0) return {};
  if (!device.exists) return fmt::format("{} is not there", kDevicePath);
  if (device.open_errno == EACCES) {
    return fmt::format("{} may not be opened by {}: it belongs to {}:{}, mode {:04o}", kDevicePath,
                       device.user, device.owner, device.group, device.mode);
  }
  return fmt::format("{} cannot be opened: {}", kDevicePath, strerrordesc_np(device.open_errno));
}

std::string device_remedy(const DeviceFile& device, bool cpu_has_vmx, bool cpu_has_svm) {
  if (device.open_errno == 0) return {};
  if (!device.exists || device.open_errno == ENODEV || device.open_errno == ENXIO) {
    if (!cpu_has_vmx && !cpu_has_svm) {
      return "the processor offers no hardware virtualization: switch it on in the firmware (VT-x, SVM), or, "
             "in a virtual machine, let its host pass it on (nested virtualization)";
    }
    return fmt::format(
        "modprobe {}, as root; when that is refused, virtualization is switched off in the firmware; in a "
        "container, start it with --device {}",
        cpu_has_vmx ? "kvm_intel" : "kvm_amd", kDevicePath);
  }
  if (device.open_errno == EPERM) {
    return fmt::format("a container's device rules forbid it: start the container with --device {}",
                       kDevicePath);
  }
  if (device.open_errno != EACCES) return "dmesg may say more";
  // Joining root's group gives more than /dev/kvm.
  if ((device.mode & kGroupReadWrite) == kGroupReadWrite && device.group != "root" && !device.in_group)
    return fmt::format("usermod -aG {} {}, as root, then log in again", device.group, device.user);
  return fmt::format(
      "no group may use it: as root, groupadd -f -r {0}; usermod -aG {0} {1}; write KERNEL==\"kvm\", "
      "GROUP=\"{0}\", MODE=\"0660\" to /etc/udev/rules.d/65-kvm.rules; udevadm control --reload; udevadm "
      "trigger {2}; then log in again",
      kUsualGroup, device.user, kDevicePath);
}

}  // namespace ktstr::kvm
