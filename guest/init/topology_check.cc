// Where the kernel says what (Linux 6.12 to 7.2):
//
//   cpu/kernel_max, cpu/online              what it was built for; what runs
//   cpu/cpuN/topology/core_cpus_list        threads of a core
//   cpu/cpuN/cache/indexK/{level,type,shared_cpu_list}
//                                           the cache of the highest level is the one the scheduler means by
//                                           LLC (arch/x86/kernel/cpu/cacheinfo.c fills both from one number)
//   node/online, node/nodeN/{cpulist,distance,meminfo}; no node/ at all without CONFIG_NUMA
//   node/nodeN/access0/initiators/{read_latency,read_bandwidth}   with an HMAT
//
// Memory: MemTotal is what the kernel left to its page allocator, so it is always less than the node has. How
// much less depends on the kernel (its image, page structures, a KASAN shadow); that bound is a loose one.
// The other one is sharp: what one node lacks, another one has too much of.
#include "guest/init/topology_check.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <set>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "common/cpu_set.h"
#include "common/quote.h"
#include "common/read_file.h"
#include "common/scenario_check.h"
#include "common/units.h"

namespace ktstr::guest {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
// Of a node's memory: kernel image, early allocations, initramfs; page structures; a shadow of one byte in 8.
constexpr std::uint64_t kReservedMemory = 128 * kMiB;
constexpr std::uint64_t kReservedShare = 4;
constexpr std::uint32_t kMaxNodes = 1024;  // CONFIG_NODES_SHIFT is at most 10
constexpr int kMaxCacheIndex = 16;
constexpr std::size_t kMostNamed = 4;  // differences in the message
// A value of the HMAT is 16 bits wide: large ones are rounded.
constexpr std::uint64_t kHmatSteps = 1000;

// Arguments that take something away, whatever the machine has (Documentation/admin-guide/
// kernel-parameters.txt).
constexpr std::string_view kSpoilers[] = {
    "acpi=", "maxcpus=", "mem=",   "memmap=",  "noapic", "nolapic",
    "nosmp", "nosmt",    "nosmt=", "nr_cpus=", "numa=",  "possible_cpus="};

std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  constexpr std::string_view kBlanks = " \t\n";
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
    if (text.empty()) return words;
    words.push_back(text.substr(0, text.find_first_of(kBlanks)));
    text.remove_prefix(words.back().size());
  }
}

std::string spoilers_in(std::string_view command_line) {
  std::string found;
  for (const std::string_view word : words_of(command_line)) {
    const bool spoils = std::ranges::any_of(kSpoilers, [word](std::string_view spoiler) {
      return spoiler.ends_with('=') ? word.starts_with(spoiler) : word == spoiler;
    });
    if (spoils) found += (found.empty() ? "" : " ") + std::string(word);
  }
  return found;
}

// As the kernel writes a range: comparing texts is much cheaper than comparing sets, and there are many.
std::string range_text(std::uint64_t first, std::uint64_t end) {
  if (first >= end) return {};
  return first + 1 == end ? std::to_string(first) : fmt::format("{}-{}", first, end - 1);
}

// A set for a message.
std::string shown(const CpuSet& set) {
  return set.empty() ? "none" : set.to_string();
}

class Comparison {
 public:
  Comparison(const ktstr::v1::Topology& planned, std::string system)
      : planned_(planned), system_(std::move(system)), cpus_(topology_cpus(planned)) {}

  void compare_cpus() {
    const std::string text = read_attribute(system_ + "/cpu/online").value_or("");
    online_ = CpuSet::parse(text).value_or(CpuSet());
    all_online_ = text == range_text(0, cpus_);
    if (!all_online_) compare_set("CPUs online:", text, CpuSet::first(cpus_));
    const std::uint64_t threads = std::clamp<std::uint64_t>(planned_.threads_per_core(), 1, cpus_);
    for (const std::uint32_t cpu : online_.cpus()) {
      if (cpu >= cpus_) break;
      const std::string folder = fmt::format("{}/cpu/cpu{}", system_, cpu);
      compare_group(fmt::format("cpu{}: core shared with", cpu), read(folder + "/topology/core_cpus_list"),
                    cpu / threads * threads, threads);
      compare_group(fmt::format("cpu{}: LLC shared with", cpu), read_last_level(folder),
                    cpu / llc_size() * llc_size(), llc_size());
    }
  }

  void compare_nodes() {
    const auto nodes = std::min(static_cast<std::uint32_t>(planned_.nodes_size()), kMaxNodes);
    // A kernel without nodes has everything in one.
    if (nodes == 0 || (nodes == 1 && !exists(system_ + "/node"))) return;
    compare_set("NUMA nodes online:", read(system_ + "/node/online"), CpuSet::first(nodes));
    std::uint64_t first = 0;
    for (std::uint32_t node = 0; node < nodes; ++node) {
      const auto& described = planned_.nodes(static_cast<int>(node));
      const std::uint64_t size = std::min<std::uint64_t>(described.llcs(), cpus_) * llc_size();
      const std::string folder = fmt::format("{}/node/node{}", system_, node);
      if (exists(folder)) {
        compare_group(fmt::format("node{}: CPUs", node), read(folder + "/cpulist"), first, size);
        compare_distances(node, folder);
        compare_memory(node, folder);
        compare_access(node, folder);
        compare_memory_side_cache(node, folder);
      }
      first += size;
    }
  }

  const std::vector<std::string>& differences() const { return differences_; }

 private:
  static bool exists(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0;
  }

  void differ(std::string what) { differences_.push_back(std::move(what)); }

  static std::optional<std::string> read(const std::string& path) {
    auto text = read_attribute(path);
    return text ? std::optional(std::move(*text)) : std::nullopt;
  }

  static std::optional<std::uint64_t> read_number(const std::string& path) {
    const auto text = read_attribute(path);
    return text ? number_in(*text) : std::nullopt;
  }

  // At most cpus_, so that sums cannot wrap.
  std::uint64_t llc_size() const {
    const std::uint64_t size =
        std::uint64_t{std::max(planned_.cores_per_llc(), 1U)} * std::max(planned_.threads_per_core(), 1U);
    return std::min<std::uint64_t>(size, cpus_);
  }

  void compare_set(const std::string& what, const std::optional<std::string>& seen, const CpuSet& planned) {
    const auto set = seen ? CpuSet::parse(*seen) : Expected<CpuSet>(CpuSet());
    if (seen && set && *set == planned) return;
    differ(fmt::format("{} {}, planned {}", what,
                       !seen  ? "(not in /sys)"
                       : !set ? quote(*seen)
                              : shown(*set),
                       shown(planned)));
  }

  // `planned` are the CPUs first to first + size - 1, as far as they are online.
  void compare_group(const std::string& what, const std::optional<std::string>& seen, std::uint64_t first,
                     std::uint64_t size) {
    first = std::min<std::uint64_t>(first, cpus_);
    const std::uint64_t end = std::min<std::uint64_t>(first + size, cpus_);
    if (all_online_ && seen == range_text(first, end)) return;
    std::set<std::uint32_t> planned;
    for (auto cpu = static_cast<std::uint32_t>(first); cpu < end; ++cpu)
      if (online_.contains(cpu)) planned.insert(cpu);
    compare_set(what, seen, CpuSet(std::move(planned)));
  }

  // CPUs behind the cache of the highest level.
  static std::optional<std::string> read_last_level(const std::string& cpu_folder) {
    std::uint64_t highest = 0;
    std::string last;
    for (int index = 0; index < kMaxCacheIndex; ++index) {
      const std::string folder = fmt::format("{}/cache/index{}", cpu_folder, index);
      const auto level = read_number(folder + "/level");
      if (!level) break;
      if (*level < highest || read_attribute(folder + "/type").value_or("") == "Instruction") continue;
      highest = *level;
      last = folder;
    }
    if (last.empty()) return std::nullopt;
    return read(last + "/shared_cpu_list");
  }

  void compare_distances(std::uint32_t node, const std::string& folder) {
    if (node >= static_cast<std::uint32_t>(planned_.distances_size())) return;
    const auto& planned = planned_.distances(static_cast<int>(node)).to();
    const std::string text = read_attribute(folder + "/distance").value_or("");
    const auto seen = words_of(text);
    const bool same = std::ranges::equal(seen, planned, [](std::string_view word, std::uint32_t distance) {
      return number_in(word) == distance;
    });
    if (!same)
      differ(fmt::format("node{}: distances {}, planned {}", node, quote(text), fmt::join(planned, " ")));
  }

  void compare_memory(std::uint32_t node, const std::string& folder) {
    const auto planned = parse_size(planned_.nodes(static_cast<int>(node)).memory());
    if (!planned || *planned == 0) return;
    const std::string text = read_attribute(folder + "/meminfo").value_or("");
    const auto words = words_of(text);  // "Node 0 MemTotal:  247344 kB", other lines
    const auto label = std::ranges::find(words, "MemTotal:");
    std::optional<std::uint64_t> total;
    if (label != words.end() && label + 1 != words.end()) total = number_in(label[1]);
    if (!total) return differ(fmt::format("node{}: no MemTotal in /sys", node));
    const std::uint64_t seen = std::min(*total, ~std::uint64_t{0} / 1024) * 1024;
    const std::uint64_t reserved = *planned / kReservedShare + kReservedMemory;
    if (seen <= *planned && seen + reserved >= *planned) return;
    differ(fmt::format("node{}: {} of memory, planned {}", node, format_size(seen), format_size(*planned)));
  }

  void compare_access(std::uint32_t node, const std::string& folder) {
    const auto& planned = planned_.nodes(static_cast<int>(node));
    const auto compare = [&](const char* what, std::uint64_t value, const char* unit) {
      const auto seen = read_number(fmt::format("{}/access0/initiators/{}", folder, what));
      const std::uint64_t tolerance = 1 + value / kHmatSteps;
      if (seen && *seen + tolerance >= value && *seen <= value + tolerance) return;
      differ(fmt::format("node{}: {} {}, planned {} {}", node, what,
                         seen ? std::to_string(*seen) : "not in /sys", value, unit));
    };
    if (planned.has_latency_ns()) compare("read_latency", planned.latency_ns(), "ns");
    if (planned.has_bandwidth_mbs()) compare("read_bandwidth", planned.bandwidth_mbs(), "MB/s");
  }

  // drivers/base/node.c, node_add_cache(): one folder for each level.
  void compare_memory_side_cache(std::uint32_t node, const std::string& folder) {
    const auto planned = parse_size(planned_.nodes(static_cast<int>(node)).memory_side_cache());
    if (!planned || *planned == 0) return;
    const auto seen = read_number(folder + "/memory_side_cache/index1/size");
    if (seen == *planned) return;
    differ(fmt::format("node{}: memory-side cache {}, planned {}", node,
                       seen ? format_size(*seen) : "not in /sys", format_size(*planned)));
  }

  const ktstr::v1::Topology& planned_;
  std::string system_;
  std::uint32_t cpus_;
  CpuSet online_;
  bool all_online_ = false;
  std::vector<std::string> differences_;
};

// What no machine could show this kernel; "" when there is nothing.
std::string missing_in_kernel(const ktstr::v1::Topology& planned, const std::string& system) {
  const std::uint32_t cpus = topology_cpus(planned);
  const auto text = read_attribute(system + "/cpu/kernel_max");
  const auto last = text ? number_in(*text) : std::nullopt;
  if (last && *last < cpus - 1) {
    return fmt::format("the kernel takes CPUs 0-{} (CONFIG_NR_CPUS), the plan has {} CPUs", *last, cpus);
  }
  struct stat status {};
  if (planned.nodes_size() > 1 && ::stat((system + "/node").c_str(), &status) != 0) {
    return fmt::format("the kernel has no NUMA nodes (CONFIG_NUMA), the plan has {}", planned.nodes_size());
  }
  return {};
}

}  // namespace

std::optional<TopologyFinding> find_topology_difference(const ktstr::v1::Topology& planned,
                                                        const std::string& system,
                                                        const std::string& command_line) {
  if (std::string missing = missing_in_kernel(planned, system); !missing.empty())
    return TopologyFinding{.kernel_lacks = true, .text = std::move(missing)};
  Comparison comparison(planned, system);
  comparison.compare_cpus();
  comparison.compare_nodes();
  const auto& differences = comparison.differences();
  if (differences.empty()) return std::nullopt;
  const std::size_t named = std::min(differences.size(), kMostNamed);
  std::string text = fmt::format(
      "the kernel sees another topology than planned: {}",
      fmt::join(differences.begin(), differences.begin() + static_cast<std::ptrdiff_t>(named), "; "));
  if (named < differences.size())
    text += fmt::format("; and {} more differences", differences.size() - named);
  if (const std::string spoilers = spoilers_in(command_line); !spoilers.empty())
    text += fmt::format(" (the kernel's command line has {})", quote(spoilers));
  return TopologyFinding{.kernel_lacks = false, .text = std::move(text)};
}

}  // namespace ktstr::guest
