// How many CPUs of the host this process may use. A guest with more vCPUs than that has vCPUs that wait for
// each other: what its tasks see as delays is then partly the host's doing.
#pragma once

#include <optional>
#include <string_view>

#include "common/cpu_set.h"

namespace ktstr {

// The CPUs that this process may run on (sched_getaffinity(2)). Error kHost.
Expected<CpuSet> affinity_of_this_process();

// The host's NUMA nodes that have these CPUs; empty where the host does not tell (a kernel without NUMA).
CpuSet host_nodes_of(const CpuSet& cpus);

// The fewest of: CPUs online, CPUs of the affinity mask, quota of the cgroups this process is in (cpu.max of
// version 2, cpu.cfs_quota_us of version 1), the folders above them included. At least a small positive
// number.
double usable_host_cpus();

// "200000", "100000" -> 2; "-1" is no limit (Documentation/scheduler/sched-bwc.rst).
std::optional<double> parse_cfs_quota(std::string_view quota, std::string_view period);

// The cgroup of the hierarchy that has the controller `cpu`, out of the text of /proc/self/cgroup
// (cgroups(7)): a line "N:cpu,cpuacct:PATH". nullopt: that controller is not on a hierarchy of version 1.
std::optional<std::string_view> cpu_cgroup_v1(std::string_view cgroups);

}  // namespace ktstr
