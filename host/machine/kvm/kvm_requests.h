// <linux/kvm.h>, with the numbers of those requests right whose structs end in a list.
//
// A request's number has the size of its struct in it. The kernel's headers declare such a list behind an
// empty struct, which has size 0 in C but 1 in C++ (__DECLARE_FLEX_ARRAY as Debian 12 has it), so that C++
// makes other numbers, and KVM answers EINVAL. Nor is sizeof or the list's offset what KVM has: write the
// header by hand, as it is here, and the list behind it.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstddef>

namespace ktstr::kvm {

inline constexpr std::size_t kCountAndPadding = 8;  // of lists of CPUID leaves, MSRs, interrupt routes
inline constexpr std::size_t kCountAlone = 4;       // of MSR numbers; length of the signal mask
inline constexpr std::size_t kXsaveBytes = 4096;    // struct kvm_xsave

}  // namespace ktstr::kvm

#undef KVM_GET_MSR_INDEX_LIST
#undef KVM_GET_SUPPORTED_CPUID
#undef KVM_SET_GSI_ROUTING
#undef KVM_GET_MSRS
#undef KVM_SET_MSRS
#undef KVM_SET_SIGNAL_MASK
#undef KVM_SET_CPUID2
#undef KVM_GET_CPUID2
#undef KVM_GET_XSAVE
#undef KVM_SET_XSAVE
#undef KVM_GET_XSAVE2
#define KVM_GET_MSR_INDEX_LIST _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, ::ktstr::kvm::kCountAlone)
#define KVM_GET_SUPPORTED_CPUID _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, ::ktstr::kvm::kCountAndPadding)
#define KVM_SET_GSI_ROUTING _IOC(_IOC_WRITE, KVMIO, 0x6a, ::ktstr::kvm::kCountAndPadding)
#define KVM_GET_MSRS _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, ::ktstr::kvm::kCountAndPadding)
#define KVM_SET_MSRS _IOC(_IOC_WRITE, KVMIO, 0x89, ::ktstr::kvm::kCountAndPadding)
#define KVM_SET_SIGNAL_MASK _IOC(_IOC_WRITE, KVMIO, 0x8b, ::ktstr::kvm::kCountAlone)
#define KVM_SET_CPUID2 _IOC(_IOC_WRITE, KVMIO, 0x90, ::ktstr::kvm::kCountAndPadding)
#define KVM_GET_CPUID2 _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x91, ::ktstr::kvm::kCountAndPadding)
#define KVM_GET_XSAVE _IOC(_IOC_READ, KVMIO, 0xa4, ::ktstr::kvm::kXsaveBytes)
#define KVM_SET_XSAVE _IOC(_IOC_WRITE, KVMIO, 0xa5, ::ktstr::kvm::kXsaveBytes)
#define KVM_GET_XSAVE2 _IOC(_IOC_READ, KVMIO, 0xcf, ::ktstr::kvm::kXsaveBytes)
