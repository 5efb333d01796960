#include "host/machine/host_cpus.h"

#include <sched.h>
#include <unistd.h>

#include <fstream>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

TEST(HostCpus, QuotasOfVersion1) {
  EXPECT_EQ(parse_cfs_quota("200000", "100000"), 2.0);
  EXPECT_EQ(parse_cfs_quota("50000", "100000"), 0.5);
  for (const char* none : {"-1", "", "max", "0"}) {
    EXPECT_FALSE(parse_cfs_quota(none, "100000")) << none;
    EXPECT_FALSE(parse_cfs_quota("100000", none)) << none;
  }
}

TEST(HostCpus, CgroupOfTheCpuController) {
  EXPECT_EQ(cpu_cgroup_v1("9:cpuset:/a\n2:cpu,cpuacct:/b/c:d\n0::/e\n"), "/b/c:d");
  EXPECT_EQ(cpu_cgroup_v1("1:cpuacct,cpu:/\n"), "/");
  EXPECT_EQ(cpu_cgroup_v1("1:cpu:/x"), "/x");
  for (const char* none : {"", "0::/e\n", "3:cpuset:/a\n2:cpuacct:/b\n", "cpu", "1:cpu\n", ":::::"}) {
    EXPECT_FALSE(cpu_cgroup_v1(none)) << none;
  }
}

TEST(HostCpus, TheAffinityMaskIsABound) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_GT(usable_host_cpus(), 0);
  EXPECT_LE(usable_host_cpus(), CPU_COUNT(&before));
  cpu_set_t one;
  CPU_ZERO(&one);
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_LE(usable_host_cpus(), 1.0);
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

TEST(HostCpus, TheNodesOfCpus) {
  const auto allowed = affinity_of_this_process();
  ASSERT_TRUE(allowed);
  if (access("/sys/devices/system/node/node0", F_OK) != 0) {
    EXPECT_TRUE(host_nodes_of(*allowed).empty());
    return;
  }
  const CpuSet nodes = host_nodes_of(*allowed);
  ASSERT_FALSE(nodes.empty());
  CpuSet theirs;
  for (const std::uint32_t node : nodes.cpus()) {
    std::ifstream file("/sys/devices/system/node/node" + std::to_string(node) + "/cpulist");
    std::string list;
    std::getline(file, list);
    const auto cpus = CpuSet::parse(list);
    ASSERT_TRUE(cpus) << list;
    for (const std::uint32_t cpu : cpus->cpus()) theirs.insert(cpu);
  }
  EXPECT_TRUE(allowed->is_subset_of(theirs));
  EXPECT_TRUE(host_nodes_of({}).empty());
  EXPECT_TRUE(host_nodes_of(CpuSet({8000})).empty());
}

}  // namespace
}  // namespace ktstr
