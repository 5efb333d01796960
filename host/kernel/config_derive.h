// What a kernel image tells about its own configuration, for kernels that come without one.
//
// Most of it is BTF: a member of task_struct that stands between #ifdef CONFIG_X is there exactly when X is
// on, and the enum of cgroup controllers lists those that were compiled in. The banner ("#1 SMP
// PREEMPT_DYNAMIC") and the ELF notes tell a little more. An option is stated only where its presence and,
// for "is not set", its absence is certain; all others are left out.
#pragma once

#include <string>
#include <string_view>

#include "host/kernel/btf.h"
#include "host/kernel/kernel_config.h"

namespace ktstr {

// What the derivation looks at.
struct DeriveInput {
  std::string release;           // for the comment at the top
  std::string_view uts_version;  // "#1 SMP PREEMPT_DYNAMIC Debian ..."; may be empty
  const Btf* btf = nullptr;      // nullptr when the kernel has none
  bool pvh_entry = false;        // the ELF note of CONFIG_PVH is there
};

// The derived configuration (Origin::kDerived); a comment at its top says what it is. CONFIG_NR_CPUS is the
// number of bits in struct cpumask: the true value rounded up to a multiple of 64.
KernelConfig derive_config(const DeriveInput& input);

}  // namespace ktstr
