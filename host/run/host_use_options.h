// --pages, --pin-vcpus, --vcpu-fifo: how a kvm machine uses the host.
#pragma once

#include <cstdint>

#include "common/cpu_set.h"
#include "common/error.h"
#include "host/machine/create.h"
#include "host/run/run_request.h"
#include "proto/plan.pb.h"

namespace ktstr {

// Errors kUsage: any of them for a machine that is no kvm machine; a list that is none, or has another number
// of CPUs than the machine. Error kHost: a CPU that this process must not use. Of `all`, the first `vcpus`
// that it may use are taken.
Expected<HostUse> resolve_host_use(const RunRequest& request, AccelChoice kind, std::uint32_t vcpus);
// The same, with the CPUs that this process may use.
Expected<HostUse> resolve_host_use(const RunRequest& request, AccelChoice kind, std::uint32_t vcpus,
                                   const CpuSet& allowed);

// Into the plan, for the record; nothing is set for the usual way.
void describe_host_use(const HostUse& use, ktstr::v1::MachineSpec& machine);

}  // namespace ktstr
