// PID 1's look at the topology, on a made-up /sys.
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "guest/init/fault_injection.h"
#include "guest/init/topology_check.h"

namespace ktstr::guest {
namespace {

namespace fs = std::filesystem;

// Two nodes with two LLCs of one core with two threads, and one node with memory alone.
ktstr::v1::Topology planned() {
  ktstr::v1::Topology topology;
  topology.set_numa_nodes(3);
  topology.set_llcs(4);
  topology.set_cores_per_llc(1);
  topology.set_threads_per_core(2);
  for (const auto& [llcs, memory] : {std::pair(2U, "512M"), {2U, "256M"}, {0U, "256M"}}) {
    auto& node = *topology.add_nodes();
    node.set_llcs(llcs);
    node.set_memory(memory);
  }
  for (const auto& row : {std::array{10U, 21U, 30U}, {21U, 10U, 40U}, {30U, 40U, 10U}}) {
    auto& distances = *topology.add_distances();
    for (const std::uint32_t distance : row) distances.add_to(distance);
  }
  return topology;
}

class TopologyCheck : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ktstr-sys-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    put("cpu/kernel_max", "8191");
    put("cpu/online", "0-7");
    for (int cpu = 0; cpu < 8; ++cpu) {
      const std::string pair = fmt::format("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1);
      put(fmt::format("cpu/cpu{}/topology/core_cpus_list", cpu), pair);
      put_cache(cpu, 0, 1, "Data", pair);
      put_cache(cpu, 1, 1, "Instruction", pair);
      put_cache(cpu, 2, 2, "Unified", pair);
      put_cache(cpu, 3, 3, "Unified", pair);
    }
    put("node/online", "0-2");
    put_node(0, "0-3", "10 21 30", 430000);
    put_node(1, "4-7", "21 10 40", 250000);
    put_node(2, "", "30 40 10", 255000);
  }
  void TearDown() override { fs::remove_all(root_); }

  void put(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }
  void put_cache(int cpu, int index, int level, const char* type, const std::string& shared) const {
    const std::string folder = fmt::format("cpu/cpu{}/cache/index{}/", cpu, index);
    put(folder + "level", std::to_string(level));
    put(folder + "type", type);
    put(folder + "shared_cpu_list", shared);
  }
  void put_node(int node, const std::string& cpus, const std::string& distances, int kib) const {
    const std::string folder = fmt::format("node/node{}/", node);
    put(folder + "cpulist", cpus);
    put(folder + "distance", distances);
    put(folder + "meminfo",
        fmt::format("Node {} MemTotal:       {} kB\nNode {} MemFree:         12 kB", node, kib, node));
  }
  std::optional<TopologyFinding> find(const ktstr::v1::Topology& topology,
                                      const std::string& command_line = "quiet") const {
    return find_topology_difference(topology, root_.string(), command_line);
  }
  // The text for planned(); "" when nothing is found, or when the kernel is said to lack something.
  std::string difference() const {
    const auto found = find(planned());
    return found && !found->kernel_lacks ? found->text : "";
  }
  fs::path root_;
};

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST_F(TopologyCheck, NothingToSayWhereAllIsAsPlanned) {
  const auto found = find(planned());
  EXPECT_FALSE(found) << found->text;
}

TEST_F(TopologyCheck, ALastLevelCacheThatIsSharedOtherwise) {
  put_cache(3, 3, 3, "Unified", "0-3");
  EXPECT_HAS(difference(), "planned: cpu3: LLC shared with 0-3, planned 2-3");
}

TEST_F(TopologyCheck, TheHighestLevelCountsWhateverItsIndex) {
  for (int cpu = 0; cpu < 8; ++cpu) put_cache(cpu, 3, 2, "Unified", "0-7");
  for (int cpu = 0; cpu < 8; ++cpu)
    put_cache(cpu, 2, 3, "Unified", fmt::format("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1));
  EXPECT_EQ(difference(), "");
}

TEST_F(TopologyCheck, NoCaches) {
  fs::remove_all(root_ / "cpu/cpu5/cache");
  EXPECT_HAS(difference(), "cpu5: LLC shared with (not in /sys), planned 4-5");
}

TEST_F(TopologyCheck, AThreadWithoutItsSibling) {
  put("cpu/cpu6/topology/core_cpus_list", "6");
  EXPECT_HAS(difference(), "cpu6: core shared with 6, planned 6-7");
}

TEST_F(TopologyCheck, FewerCpusAndTheArgumentThatTookThem) {
  put("cpu/online", "0-6");
  put("cpu/cpu6/topology/core_cpus_list", "6");
  put_cache(6, 3, 3, "Unified", "6");
  put("node/node1/cpulist", "4-6");
  const auto found = find(planned(), "quiet maxcpus=7 root=x\n");
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->kernel_lacks);
  EXPECT_EQ(
      found->text,
      "the kernel sees another topology than planned: CPUs online: 0-6, planned 0-7 (the kernel's command "
      "line has 'maxcpus=7')");
}

TEST_F(TopologyCheck, ACpuInAnotherNode) {
  put("node/node0/cpulist", "0-4");
  put("node/node1/cpulist", "5-7");
  const std::string text = difference();
  EXPECT_HAS(text, "node0: CPUs 0-4, planned 0-3");
  EXPECT_HAS(text, "node1: CPUs 5-7, planned 4-7");
}

TEST_F(TopologyCheck, AMemoryOnlyNodeWithACpu) {
  put("node/node2/cpulist", "7");
  EXPECT_HAS(difference(), "node2: CPUs 7, planned none");
}

TEST_F(TopologyCheck, OtherDistances) {
  put("node/node1/distance", "21 10 20");
  EXPECT_HAS(difference(), "node1: distances '21 10 20', planned 21 10 40");
}

TEST_F(TopologyCheck, MemoryThatAnotherNodeHas) {
  put_node(0, "0-3", "10 21 30", 300000);
  EXPECT_EQ(difference(), "") << "what the kernel keeps for itself is no difference";
  put_node(2, "", "30 40 10", 263000);
  EXPECT_HAS(difference(), "node2: 256.8 MiB of memory, planned 256 MiB");
  put_node(2, "", "30 40 10", 255000);
  put_node(0, "0-3", "10 21 30", 200000);
  EXPECT_HAS(difference(), "node0: ");
}

TEST_F(TopologyCheck, ANodeTooFew) {
  put("node/online", "0-1");
  fs::remove_all(root_ / "node/node2");
  EXPECT_HAS(difference(), "NUMA nodes online: 0-1, planned 0-2");
}

TEST_F(TopologyCheck, LatencyAndBandwidth) {
  auto topology = planned();
  topology.mutable_nodes(2)->set_latency_ns(250);
  topology.mutable_nodes(2)->set_bandwidth_mbs(90000);
  ASSERT_TRUE(find(topology));
  EXPECT_HAS(find(topology)->text, "node2: read_latency not in /sys, planned 250 ns");
  put("node/node2/access0/initiators/read_latency", "250");
  put("node/node2/access0/initiators/read_bandwidth", "89998");
  EXPECT_FALSE(find(topology)) << "rounded";
  put("node/node2/access0/initiators/read_bandwidth", "45000");
  EXPECT_HAS(find(topology)->text, "read_bandwidth 45000, planned 90000 MB/s");
}

TEST_F(TopologyCheck, AMemorySideCache) {
  auto topology = planned();
  topology.mutable_nodes(2)->set_memory_side_cache("64M");
  ASSERT_TRUE(find(topology));
  EXPECT_HAS(find(topology)->text, "node2: memory-side cache not in /sys, planned 64 MiB");
  put("node/node2/memory_side_cache/index1/size", "67108864");
  EXPECT_FALSE(find(topology));
  put("node/node2/memory_side_cache/index1/size", "33554432");
  EXPECT_HAS(find(topology)->text, "node2: memory-side cache 32 MiB, planned 64 MiB");
}

TEST_F(TopologyCheck, AKernelForFewerCpus) {
  put("cpu/kernel_max", "3");
  const auto found = find(planned());
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->kernel_lacks);
  EXPECT_HAS(found->text, "CONFIG_NR_CPUS");
}

TEST_F(TopologyCheck, AKernelWithoutNodes) {
  fs::remove_all(root_ / "node");
  const auto found = find(planned());
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->kernel_lacks);
  EXPECT_HAS(found->text, "CONFIG_NUMA");
  auto one = planned();
  one.mutable_nodes()->DeleteSubrange(1, 2);
  one.mutable_nodes(0)->set_llcs(4);
  EXPECT_FALSE(find(one)) << "with one node there is nothing to see";
}

TEST_F(TopologyCheck, OnlyTheFirstDifferencesAreNamed) {
  for (int cpu = 0; cpu < 8; ++cpu) put_cache(cpu, 3, 3, "Unified", "0-7");
  EXPECT_HAS(difference(), "cpu3: LLC shared with 0-7, planned 2-3; and 4 more differences");
}

TEST_F(TopologyCheck, TheInjectedFaultIsADifference) {
  const auto found = find(with_small_llcs(planned()));
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->kernel_lacks);
  EXPECT_HAS(found->text, "cpu0: core shared with 0-1, planned 0; cpu0: LLC shared with 0-1, planned 0");
}

TEST_F(TopologyCheck, APlanFromTheWireMaySayAnything) {
  put("cpu/online", "rubbish");
  put("node/node0/meminfo", "Node 0 MemTotal:");
  put("cpu/kernel_max", "99999");
  ktstr::v1::Topology wild = planned();
  wild.set_cores_per_llc(~0U);
  wild.set_threads_per_core(~0U);
  wild.set_llcs(~0U);
  for (auto& node : *wild.mutable_nodes()) {
    node.set_llcs(~0U);
    node.set_memory("-5");
  }
  for (int i = 0; i < 2000; ++i) wild.add_nodes();
  EXPECT_TRUE(find(wild));
  EXPECT_TRUE(find(ktstr::v1::Topology()));
}

}  // namespace
}  // namespace ktstr::guest
