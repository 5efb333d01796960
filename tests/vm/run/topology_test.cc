// The topology that was asked for is the one the kernel sees: PID 1 compares, and says what is different.
#include <fstream>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

constexpr const char* kThreeNodes = R"(cores_per_llc: 1
threads_per_core: 2
nodes { llcs: 1 memory: "512M" }
nodes { llcs: 2 memory: "256M" }
nodes { llcs: 0 memory: "128M" }
distances { to: [10, 21, 30] }
distances { to: [21, 10, 40] }
distances { to: [30, 40, 10] }
)";

class Topology : public VmTest {
 protected:
  void SetUp() override {
    VmTest::SetUp();
    if (kernel("7.2").empty()) GTEST_SKIP() << "not available: kernel 7.2";
  }
  std::string file(const std::string& text) const {
    const auto path = folder() / "nodes.textproto";
    std::ofstream(path) << text;
    return path.string();
  }
  VmRun run_with(const std::string& series, const std::string& topology,
                 std::vector<std::string> more = {}) const {
    // A nested guest has its clock from the host, and is slow.
    more.insert(more.end(), {"--topology", topology, "--duration", on_kvm() ? "4s" : "1s"});
    return run_seeded(series, std::move(more));
  }
};

TEST_F(Topology, TwoNodesTwoLlcsEachAndThreads) {
  const VmRun run = run_with("7.2", "numa=2,llcs=4,cores=1,threads=2");
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(run.result["guest"]["facts"]["cpus_online"], 8);
  const auto& topology = run.result["plan"]["machine"]["topology"];
  EXPECT_EQ(topology["nodes"].size(), 2U) << topology;
  EXPECT_EQ(topology["distances"][0]["to"][1], 20) << topology;
}

// What runs on the kvm machine with every change, also where the host has little time for a guest in a guest.
TEST_F(Topology, ANodeAnLlcAndTwoThreadsTwice) {
  const VmRun run = run_seeded(
      "7.2", {"--topology", "numa=2,llcs=2,cores=1,threads=2", "--duration", on_kvm() ? "10s" : "1s"});
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(run.result["guest"]["facts"]["cpus_online"], 4);
  EXPECT_EQ(run.result["plan"]["machine"]["topology"]["nodes"].size(), 2U);
}

TEST_F(Topology, AFileWithDistancesAndANodeWithoutCpus) {
  const VmRun run = run_with("7.2", file(kThreeNodes));
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(run.result["plan"]["machine"]["memory_bytes"].dump(), "939524096");
}

// PID 1 finds them in /sys/devices/system/node/nodeN: access*/initiators, memory_side_cache.
TEST_F(Topology, LatenciesBandwidthsAndCachesOfNodes) {
  if (!on_kvm()) GTEST_SKIP() << "not available: a real KVM (scripts/nested-kvm)";
  const VmRun run = run_with("7.2", file(R"(cores_per_llc: 1
nodes { llcs: 1 memory: "512M" latency_ns: 90 bandwidth_mbs: 20000 }
nodes { llcs: 1 memory: "256M" latency_ns: 120 bandwidth_mbs: 15000 }
nodes { llcs: 0 memory: "256M" latency_ns: 250 bandwidth_mbs: 9000 memory_side_cache: "64M" }
)"));
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_NE(run.result["plan"]["machine"]["topology"].dump().find("250"), std::string::npos)
      << run.describe();
}

TEST_F(Topology, APresetWithThreeCoresAnLlcOn618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  const VmRun run = run_with("6.18", "odd-3llc");
  ASSERT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(run.result["guest"]["facts"]["cpus_online"], 9);
}

TEST_F(Topology, ADifferenceIsExit20AndNamed) {
  const VmRun run = run_with("7.2", "llcs=2,cores=2", {"--append", "ktstr.inject=topology"});
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_EQ(run.reason_kind(), "topology") << run.describe();
  EXPECT_NE(run.reason_text().find("cpu0: LLC shared with 0-1, planned 0"), std::string::npos)
      << run.reason_text();
}

TEST_F(Topology, CpusThatTheUserTookAwayAreADifference) {
  const VmRun run = run_with("7.2", "cores=3", {"--append", "maxcpus=2"});
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_NE(run.reason_text().find("0-1, planned 0-2"), std::string::npos) << run.reason_text();
  EXPECT_NE(run.reason_text().find("'maxcpus=2'"), std::string::npos) << run.reason_text();
}

TEST_F(Topology, BadInputIsExit2BeforeAnythingStarts) {
  const struct {
    std::string topology, words;
  } kCases[] = {
      {"numa2-4lcs", "did you mean 'numa2-4llc'?"},
      {"numa=2,llcs=3", "multiple of numa"},
      {file("nodes { llcs: 0 }\nnodes {}\n"), "nodes.textproto:1:9: the first node has no CPUs"},
  };
  for (const auto& [topology, words] : kCases) {
    const VmRun run = run_on("7.2", {"--topology", topology});
    EXPECT_EQ(run.exit_code, 2) << run.describe();
    EXPECT_NE(run.err.find(words), std::string::npos) << run.err;
  }
  const VmRun sum = run_on("7.2", {"--topology", file("nodes { memory: \"512M\" }"), "--memory", "1G"});
  EXPECT_EQ(sum.exit_code, 2) << sum.describe();
  EXPECT_NE(sum.err.find("512 MiB"), std::string::npos) << sum.err;
}

}  // namespace
}  // namespace ktstr::vmtest
