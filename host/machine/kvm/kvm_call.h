// One ioctl(2) on a KVM descriptor, with an error that names the call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/error.h"
#include "host/machine/kvm/kvm_requests.h"

namespace ktstr::kvm {

// Repeats the call when a signal interrupts it. Error kHost: "KVM_CREATE_VM failed: Device or resource busy".
Expected<int> call(int fd, unsigned long request, std::uintptr_t argument, const char* name);
template <typename T>
Expected<int> call(int fd, unsigned long request, T* argument, const char* name) {
  return call(fd, request, reinterpret_cast<std::uintptr_t>(argument), name);
}

}  // namespace ktstr::kvm

// KVM_CALL(fd, KVM_SET_REGS, &regs): the request's name comes from the source.
#define KVM_CALL(fd, request, argument) ::ktstr::kvm::call(fd, request, argument, #request)
