#include "host/machine/kvm/kvm_call.h"

#include <sys/ioctl.h>

#include <cerrno>

#include <fmt/core.h>

namespace ktstr::kvm {

Expected<int> call(int fd, unsigned long request, std::uintptr_t argument, const char* name) {
  for (;;) {
    const int result = ioctl(fd, request, argument);
    if (result >= 0) return result;
    if (errno != EINTR) return fail_errno(ErrorCode::kHost, fmt::format("{} failed", name));
  }
}

}  // namespace ktstr::kvm
