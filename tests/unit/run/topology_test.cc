// What --topology takes, and what follows from it for the machine.
#include <filesystem>
#include <fstream>
#include <map>

#include <gtest/gtest.h>

#include "common/scenario_check.h"
#include "host/machine/ram_layout.h"
#include "host/run/machine_shape.h"
#include "host/run/topology_file.h"
#include "host/run/topology_presets.h"
#include "host/run/topology_spec.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

Expected<CpuTopology> parse(const std::string& text) {
  return parse_topology_file(SourceText("t.textproto", text));
}

constexpr const char* kThreeNodes = R"(cores_per_llc: 2
threads_per_core: 2
nodes { llcs: 2 memory: "512M" }
nodes { memory: "256M" }
nodes { llcs: 0 memory: "1G" latency_ns: 250 bandwidth_mbs: 9000 memory_side_cache: "96M" }
distances { to: [10, 21, 30] }
distances { to: [21, 10, 40] }
distances { to: [30, 40, 10] }
)";

TEST(TopologyPresets, AreTheTableOfTheDocumentation) {
  const std::map<std::string_view, std::pair<std::string, std::uint32_t>> table{
      {"tiny-1llc", {"numa=1,llcs=1,cores=4,threads=1", 4}},
      {"tiny-2llc", {"numa=1,llcs=2,cores=2,threads=1", 4}},
      {"odd-3llc", {"numa=1,llcs=3,cores=3,threads=1", 9}},
      {"odd-5llc", {"numa=1,llcs=5,cores=3,threads=1", 15}},
      {"odd-7llc", {"numa=1,llcs=7,cores=2,threads=1", 14}},
      {"smt-2llc", {"numa=1,llcs=2,cores=2,threads=2", 8}},
      {"smt-3llc", {"numa=1,llcs=3,cores=2,threads=2", 12}},
      {"medium-4llc", {"numa=1,llcs=4,cores=4,threads=2", 32}},
      {"medium-8llc", {"numa=1,llcs=8,cores=4,threads=2", 64}},
      {"large-4llc", {"numa=1,llcs=4,cores=16,threads=2", 128}},
      {"large-8llc", {"numa=1,llcs=8,cores=8,threads=2", 128}},
      {"near-max-llc", {"numa=1,llcs=15,cores=8,threads=2", 240}},
      {"max-cpu", {"numa=1,llcs=14,cores=9,threads=2", 252}},
      {"medium-4llc-nosmt", {"numa=1,llcs=4,cores=8,threads=1", 32}},
      {"medium-8llc-nosmt", {"numa=1,llcs=8,cores=8,threads=1", 64}},
      {"large-4llc-nosmt", {"numa=1,llcs=4,cores=32,threads=1", 128}},
      {"large-8llc-nosmt", {"numa=1,llcs=8,cores=16,threads=1", 128}},
      {"near-max-llc-nosmt", {"numa=1,llcs=15,cores=16,threads=1", 240}},
      {"max-cpu-nosmt", {"numa=1,llcs=14,cores=18,threads=1", 252}},
      {"numa2-4llc", {"numa=2,llcs=4,cores=4,threads=1", 16}},
      {"numa2-8llc", {"numa=2,llcs=8,cores=8,threads=2", 128}},
      {"numa2-8llc-nosmt", {"numa=2,llcs=8,cores=16,threads=1", 128}},
      {"numa4-8llc", {"numa=4,llcs=8,cores=4,threads=1", 32}},
      {"numa4-12llc", {"numa=4,llcs=12,cores=8,threads=2", 192}},
  };
  EXPECT_EQ(topology_presets().size(), table.size());
  for (const auto& [name, expected] : table) {
    const auto topology = load_topology(std::string(name));
    ASSERT_TRUE(topology) << topology.error().to_string();
    EXPECT_EQ(format_topology(*topology), expected.first) << name;
    EXPECT_EQ(topology->cpus(), expected.second) << name;
    EXPECT_TRUE(check_topology(*topology)) << name;
  }
}

TEST(TopologyPresets, OnlyThoseWithNineBitsOfApicIdAreNotEmulated) {
  for (const TopologyPreset& preset : topology_presets()) {
    const bool emulated = check_topology_limits(AccelChoice::kTcg, preset.topology()).has_value();
    EXPECT_EQ(emulated, !preset.name.starts_with("max-cpu")) << preset.name;
    EXPECT_TRUE(check_topology_limits(AccelChoice::kKvm, preset.topology())) << preset.name;
  }
}

TEST(LoadTopology, TellsListsPresetsAndFilesApart) {
  EXPECT_EQ(load_topology("llcs=2,threads=2")->cpus(), 4U);
  const auto preset = load_topology("numa2-4lcs");
  ASSERT_FALSE(preset);
  EXPECT_EQ(preset.error().code(), ErrorCode::kUsage);
  EXPECT_NE(preset.error().message().find("did you mean 'numa2-4llc'?"), std::string::npos)
      << preset.error().message();
  const auto file = load_topology("/nonexistent/t.textproto");
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code(), ErrorCode::kUsage);
  EXPECT_NE(file.error().to_string().find("/nonexistent/t.textproto"), std::string::npos);
  const auto fraction = load_topology("cores=1.5");
  ASSERT_FALSE(fraction);
  EXPECT_NE(fraction.error().to_string().find("whole number"), std::string::npos);
  const auto many = load_topology("llcs=4096,cores=2");
  ASSERT_FALSE(many);
  EXPECT_EQ(many.error().code(), ErrorCode::kUsage);

  std::string folder = (fs::temp_directory_path() / "ktstr-topology-XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/a=b";
  std::ofstream(path) << "cores_per_llc: 3\n";
  const auto loaded = load_topology(path);
  fs::remove_all(folder);
  ASSERT_TRUE(loaded) << loaded.error().to_string();
  EXPECT_EQ(loaded->cpus(), 3U);
}

TEST(TopologyFile, NodesMemoryAndDistances) {
  const auto topology = parse(kThreeNodes);
  ASSERT_TRUE(topology) << topology.error().to_string() << topology.error().detail();
  EXPECT_EQ(topology->numa_nodes, 3U);
  EXPECT_EQ(topology->llcs, 3U);
  EXPECT_EQ(topology->cpus(), 12U);
  ASSERT_EQ(topology->nodes.size(), 3U);
  EXPECT_EQ(topology->nodes[0].llcs, 2U);
  EXPECT_EQ(topology->nodes[0].memory_bytes, 512 * kMiB);
  EXPECT_FALSE(topology->nodes[0].latency_ns);
  EXPECT_EQ(topology->nodes[1].llcs, 1U);
  EXPECT_EQ(topology->nodes[2].llcs, 0U);
  EXPECT_EQ(topology->nodes[2].memory_bytes, kGiB);
  EXPECT_EQ(topology->nodes[2].latency_ns, 250U);
  EXPECT_EQ(topology->nodes[2].bandwidth_mbs, 9000U);
  EXPECT_EQ(topology->nodes[2].memory_side_cache_bytes, std::uint64_t{96} << 20);
  EXPECT_EQ(topology->nodes[0].memory_side_cache_bytes, 0U);
  EXPECT_EQ(node_distance(*topology, 1, 2), 40);
}

TEST(TopologyFile, AnEmptyOneIsOneCpu) {
  const auto topology = parse("");
  ASSERT_TRUE(topology);
  EXPECT_EQ(*topology, CpuTopology{});
}

TEST(TopologyFile, ItsTextIsReadBackAsTheSame) {
  const auto topology = parse(kThreeNodes);
  ASSERT_TRUE(topology);
  const auto again = parse(topology_text(*topology));
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_EQ(*again, *topology);
  EXPECT_NE(topology_text(*topology).find("to: [30, 40, 10]"), std::string::npos) << topology_text(*topology);
}

// Text, place, a word of the message or the hint.
TEST(TopologyFile, ErrorsHaveTheirPlaceAndAHint) {
  const struct {
    const char* text;
    const char* place;
    const char* words;
  } kCases[] = {
      {"cores: 2", "t.textproto:1:1: ", "cores_per_llc"},
      {"nodes {}\nnodes { lcs: 2 }", "t.textproto:2:9: ", "did you mean 'llcs'?"},
      {"llcs: 0", "t.textproto:1:1: ", "from 1 to 4096"},
      {"\n  llcs: 4097", "t.textproto:2:3: ", "from 1 to 4096"},
      {"numa_nodes: 2 llcs: 3", "t.textproto:1:15: ", "evenly"},
      {"numa_nodes: 2", "t.textproto:1:1: ", "evenly"},
      {"llcs: 4096 cores_per_llc: 4096", "t.textproto:1:1: ", "4096"},
      {"nodes { llcs: 0 }\nnodes {}", "t.textproto:1:9: ", "memory-only"},
      {"nodes {}\nnodes { llcs: 5000 }", "t.textproto:2:9: ", "4096"},
      {"nodes { memory: \"5x\" }", "t.textproto:1:9: ", "512M"},
      {"nodes { memory: \"3M\" }", "t.textproto:1:9: ", "2 MiB"},
      {"nodes { memory: \"900000T\" }", "t.textproto:1:9: ", "16"},
      {"nodes { latency_ns: 5 }", "t.textproto:1:1: ", "both or none"},
      {"nodes { latency_ns: 0 bandwidth_mbs: 1 }", "t.textproto:1:9: ", "latency_ns"},
      {"nodes { latency_ns: 1 bandwidth_mbs: 0 }", "t.textproto:1:23: ", "bandwidth_mbs"},
      {"nodes { memory_side_cache: \"5x\" }", "t.textproto:1:9: ", "256M"},
      {"nodes { memory_side_cache: \"1K\" }", "t.textproto:1:9: ", "64 KiB"},
      {"numa_nodes: 2 nodes {}", "t.textproto:1:1: ", "leave numa_nodes out"},
      {"llcs: 2 nodes {}", "t.textproto:1:1: ", "leave llcs out"},
      {"nodes {} nodes {}\ndistances { to: [10, 20] }", "t.textproto:2:1: ", "for each node"},
      {"nodes {} distances { to: [10, 20] }", "t.textproto:1:10: ", "each node"},
      {"nodes {} nodes {}\ndistances { to: [10, 20] }\ndistances { to: [21, 10] }",
       "t.textproto:3:", "both directions"},
      {"nodes {} nodes {}\ndistances { to: [10, 10] }\ndistances { to: [10, 10] }",
       "t.textproto:2:", "11 to 254"},
      {"nodes {} nodes {}\ndistances { to: [10, 300] }\ndistances { to: [44, 10] }",
       "t.textproto:2:", "11 to 254"},
      {"nodes {} nodes {}\ndistances { to: [11, 20] }\ndistances { to: [20, 10] }",
       "t.textproto:2:", "itself"},
      {"llcs: \xff", "t.textproto:1:1: ", "UTF-8"},
  };
  for (const auto& [text, place, words] : kCases) {
    const auto topology = parse(text);
    ASSERT_FALSE(topology) << text;
    EXPECT_EQ(topology.error().code(), ErrorCode::kUsage);
    EXPECT_TRUE(topology.error().message().starts_with(place)) << text << "\n" << topology.error().message();
    const std::string all = topology.error().message() + "\n" + topology.error().detail();
    EXPECT_NE(all.find(words), std::string::npos) << text << "\n" << all;
  }
  std::string nodes;
  for (int i = 0; i < 65; ++i) nodes += "nodes {}\n";
  const auto many = parse(nodes);
  ASSERT_FALSE(many);
  EXPECT_TRUE(many.error().message().starts_with("t.textproto:65:1: ")) << many.error().message();
}

TEST(WholeTopology, NamesEveryNodeAndAllDistances) {
  const auto topology = parse_topology("numa=2,llcs=4,cores=3,threads=2");
  const auto message = whole_topology(*topology, *node_memory(*topology, 1000 * kMiB));
  EXPECT_EQ(topology_cpus(message), 24U);
  ASSERT_EQ(message.nodes_size(), 2);
  EXPECT_EQ(message.nodes(0).llcs(), 2U);
  EXPECT_EQ(message.nodes(1).memory(), "500M");
  ASSERT_EQ(message.distances_size(), 2);
  EXPECT_EQ(message.distances(1).to(0), 20U);
  EXPECT_EQ(message.distances(1).to(1), 10U);
  EXPECT_FALSE(message.nodes(0).has_latency_ns());
  const std::uint64_t one[] = {kGiB};
  EXPECT_EQ(whole_topology(CpuTopology{}, one).distances_size(), 0);
  EXPECT_EQ(whole_topology(CpuTopology{}, one).nodes(0).memory(), "1G");
}

TEST(ResolveMemory, FollowsTheNodesTheUserAndTheNeed) {
  const MemoryNeed need{.kernel = 64 * kMiB, .files = 20 * kMiB};
  RunRequest request;
  EXPECT_EQ(resolve_memory(request, CpuTopology{}, need), 512 * kMiB);
  const auto all_said = parse("nodes { memory: \"200M\" } nodes { memory: \"300M\" }");
  EXPECT_EQ(resolve_memory(request, *all_said, need), 500 * kMiB);
  const auto beside = parse("nodes {} nodes { llcs: 0 memory: \"300M\" }");
  EXPECT_EQ(resolve_memory(request, *beside, need), 812 * kMiB) << "memory-only nodes come on top";
  const auto small = parse("nodes { memory: \"64M\" }");
  EXPECT_FALSE(resolve_memory(request, *small, need));
  request.memory = "600M";
  EXPECT_FALSE(resolve_memory(request, *all_said, need)) << "the sum is another";
  EXPECT_EQ(resolve_memory(request, *beside, need), 600 * kMiB);
  request.memory = "100M";
  EXPECT_EQ(resolve_memory(request, CpuTopology{}, need).error().code(), ErrorCode::kUsage);
}

TEST(TopologyConfig, AKernelThatCannotSeeItIsRefused) {
  const auto full = KernelConfig::parse(
      "CONFIG_SMP=y\nCONFIG_NUMA=y\nCONFIG_X86_64_ACPI_NUMA=y\nCONFIG_SCHED_MC=y\nCONFIG_SCHED_SMT=y\n"
      "CONFIG_NR_CPUS=64\nCONFIG_NODES_SHIFT=2\n",
      KernelConfig::Origin::kFile, "/boot/config");
  ASSERT_TRUE(full);
  std::vector<std::string> warnings;
  const auto check = [&](const char* text, const KernelConfig& config) {
    return check_topology_config(*load_topology(text), config, "6.18", warnings);
  };
  EXPECT_TRUE(check("numa=2,llcs=4,cores=4,threads=2", *full));
  const auto cpus = check("cores=65", *full);
  ASSERT_FALSE(cpus);
  EXPECT_EQ(cpus.error().code(), ErrorCode::kKernelLacks);
  EXPECT_NE(cpus.error().message().find("CONFIG_NR_CPUS"), std::string::npos);
  EXPECT_NE(check("numa=8,llcs=8", *full).error().message().find("CONFIG_NODES_SHIFT"), std::string::npos);
  const auto bare =
      KernelConfig::parse("CONFIG_SMP=y\n# CONFIG_NUMA is not set\n", KernelConfig::Origin::kFile, "c");
  EXPECT_TRUE(check("cores=4", *bare));
  EXPECT_NE(check("llcs=2", *bare).error().message().find("CONFIG_SCHED_MC"), std::string::npos);
  EXPECT_NE(check("threads=2", *bare).error().message().find("CONFIG_SCHED_SMT"), std::string::npos);
  EXPECT_TRUE(warnings.empty());
  const auto derived = KernelConfig::parse("CONFIG_SMP=y\n", KernelConfig::Origin::kDerived);
  EXPECT_TRUE(check("numa=2,llcs=2", *derived));
  EXPECT_EQ(warnings.size(), 3U);
}

}  // namespace
}  // namespace ktstr
