#include "host/machine/host_cpus.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string>

#include "common/read_file.h"
#include "host/machine/host_facts.h"

namespace ktstr {
namespace {

constexpr const char* kUnifiedRoots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
constexpr const char* kVersion1Roots[] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
constexpr double kLeast = 0.01;

std::string attribute(const std::filesystem::path& path) {
  return read_attribute(path.string()).value_or("");
}

std::optional<double> number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value <= 0) return std::nullopt;
  return static_cast<double>(value);
}

// All of the text.
std::optional<std::uint32_t> number_of(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The fewest CPUs that `quota_of` finds in the folder of a cgroup and in those above it.
template <typename QuotaOf>
void take_quotas(const std::filesystem::path& root, std::string_view cgroup, QuotaOf quota_of, double& cpus) {
  for (std::filesystem::path path(cgroup);; path = path.parent_path()) {
    const auto folder = root / path.relative_path();
    if (const auto quota = quota_of(folder)) cpus = std::min(cpus, *quota);
    if (!path.has_relative_path()) return;
  }
}

// The first of the folders that holds `file`; empty: none.
template <std::size_t N>
std::filesystem::path first_with(const char* const (&roots)[N], const char* file) {
  std::error_code ignored;
  for (const char* root : roots)
    if (std::filesystem::exists(std::filesystem::path(root) / file, ignored)) return root;
  return {};
}

}  // namespace

Expected<CpuSet> affinity_of_this_process() {
  // The call fails for a mask that is smaller than the kernel's; this is larger than any.
  cpu_set_t mask[CpuSet::kMaxCpus / CPU_SETSIZE] = {};
  if (sched_getaffinity(0, sizeof(mask), mask) != 0)
    return fail_errno(ErrorCode::kHost, "cannot find out which CPUs this process may use");
  CpuSet allowed;
  for (std::uint32_t cpu = 0; cpu < CpuSet::kMaxCpus; ++cpu)
    if (CPU_ISSET_S(cpu, sizeof(mask), mask)) allowed.insert(cpu);
  return allowed;
}

std::optional<double> parse_cfs_quota(std::string_view quota, std::string_view period) {
  const auto most = number(quota);
  const auto each = number(period);
  if (!most || !each) return std::nullopt;
  return *most / *each;
}

std::optional<std::string_view> cpu_cgroup_v1(std::string_view cgroups) {
  while (!cgroups.empty()) {
    const std::string_view line = cgroups.substr(0, cgroups.find('\n'));
    cgroups.remove_prefix(std::min(line.size() + 1, cgroups.size()));
    const std::size_t begin = line.find(':');
    const std::size_t end = begin == std::string_view::npos ? begin : line.find(':', begin + 1);
    if (end == std::string_view::npos) continue;
    std::string_view controllers = line.substr(begin + 1, end - begin - 1);
    while (!controllers.empty()) {
      const std::string_view one = controllers.substr(0, controllers.find(','));
      controllers.remove_prefix(std::min(one.size() + 1, controllers.size()));
      if (one == "cpu") return line.substr(end + 1);
    }
  }
  return std::nullopt;
}

CpuSet host_nodes_of(const CpuSet& cpus) {
  // A link "nodeN" to the CPU's node: drivers/base/node.c, register_cpu_under_node().
  constexpr std::string_view kPrefix = "node";
  CpuSet nodes;
  for (const std::uint32_t cpu : cpus.cpus()) {
    std::error_code ignored;
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu);
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(kPrefix)) continue;
      if (const auto node = number_of(std::string_view(name).substr(kPrefix.size()))) nodes.insert(*node);
    }
  }
  return nodes;
}

double usable_host_cpus() {
  double cpus = static_cast<double>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  if (const auto allowed = affinity_of_this_process(); allowed && !allowed->empty())
    cpus = std::min(cpus, static_cast<double>(allowed->size()));
  const std::string cgroups = attribute("/proc/self/cgroup");
  if (const auto cgroup = cpu_cgroup_v1(cgroups)) {
    const auto quota_of = [](const std::filesystem::path& folder) {
      return parse_cfs_quota(attribute(folder / "cpu.cfs_quota_us"), attribute(folder / "cpu.cfs_period_us"));
    };
    take_quotas(first_with(kVersion1Roots, "cgroup.procs"), *cgroup, quota_of, cpus);
  } else if (const std::size_t at = ("\n" + cgroups).find("\n0::"); at != std::string::npos) {
    const std::string_view path = std::string_view(cgroups).substr(at + 3);
    const auto quota_of = [](const std::filesystem::path& folder) {
      return parse_cpu_max(attribute(folder / "cpu.max"));
    };
    take_quotas(first_with(kUnifiedRoots, "cgroup.controllers"), path.substr(0, path.find('\n')), quota_of,
                cpus);
  }
  return std::max(cpus, kLeast);
}

}  // namespace ktstr
