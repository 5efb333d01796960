// The device file /dev/kvm: whether this process may use it, and what somebody has to do so that it may.
#pragma once

#include <sys/types.h>

#include <string>

namespace ktstr::kvm {

inline constexpr const char* kDevicePath = "/dev/kvm";

// What decides. Plain data, so that the advice can be tested without such a host.
struct DeviceFile {
  int open_errno = 0;     // of opening it for reading and writing; 0: it opens
  bool exists = false;    // below: only then
  mode_t mode = 0;        // permission bits
  std::string owner;      // user that owns it, by name, or its number
  std::string group;      // likewise
  bool in_group = false;  // this process belongs to that group
  std::string user;       // the user this process runs as
};
DeviceFile look_at_device();

// What is wrong with it, one line without a full stop: "/dev/kvm may not be opened by alice: it belongs to
// root:kvm, mode 0660". Empty when it opens.
std::string device_trouble(const DeviceFile& device);
// How to mend that, with the group to join or the udev rule to write; empty when it opens. `cpu_has_svm`,
// `cpu_has_vmx`: which module drives this processor.
std::string device_remedy(const DeviceFile& device, bool cpu_has_vmx, bool cpu_has_svm);

}  // namespace ktstr::kvm
