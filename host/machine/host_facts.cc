#include "host/machine/host_facts.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "common/read_file.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxCpuinfo = std::size_t{16} << 20;
constexpr const char* kUnifiedRoots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
// The modules that drive a processor's virtualization, and KVM without one.
constexpr const char* kKvmModules[] = {"kvm", "kvm_amd", "kvm_intel", "kvm_pvm"};

std::string attribute(const std::string& path) {
  return read_attribute(path).value_or("");
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end == text.data()) return std::nullopt;
  return value;
}

KvmFacts gather_kvm() {
  KvmFacts facts;
  facts.device = kvm::look_at_device();
  if (const UniqueFd fd(open(kvm::kDevicePath, O_RDWR | O_CLOEXEC)); fd) {
    facts.capabilities = kvm::ask_capabilities(fd.get());
    facts.max_vcpus = std::max(0, ioctl(fd.get(), KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
  }
  for (const char* module : kKvmModules) {
    const std::string folder = std::string("/sys/module/") + module;
    std::error_code ignored;
    if (!std::filesystem::exists(folder, ignored)) continue;
    facts.modules.emplace_back(module);
    if (facts.nested.empty()) facts.nested = attribute(folder + "/parameters/nested");
  }
  return facts;
}

HugePages gather_huge_pages(std::string_view meminfo) {
  return {.size = meminfo_field(meminfo, "Hugepagesize").value_or(0),
          .total = meminfo_field(meminfo, "HugePages_Total").value_or(0),
          .free = meminfo_field(meminfo, "HugePages_Free").value_or(0),
          .transparent = chosen_word(attribute("/sys/kernel/mm/transparent_hugepage/enabled"))};
}

ProcessLimits gather_limits() {
  ProcessLimits limits;
  const auto soft = [](__rlimit_resource resource, std::uint64_t* hard = nullptr) {
    rlimit limit{};
    if (getrlimit(resource, &limit) != 0) return UINT64_MAX;
    const auto value = [](rlim_t bound) {
      return bound == RLIM_INFINITY ? UINT64_MAX : std::uint64_t{bound};
    };
    if (hard != nullptr) *hard = value(limit.rlim_max);
    return value(limit.rlim_cur);
  };
  limits.address_space = soft(RLIMIT_AS);
  limits.file_size = soft(RLIMIT_FSIZE);
  limits.open_files = soft(RLIMIT_NOFILE, &limits.open_files_hard);
  limits.locked_memory = soft(RLIMIT_MEMLOCK);
  return limits;
}

// Limits of one cgroup; those of its parents hold as well.
void take_cgroup_limits(const std::string& folder, CgroupFacts& facts) {
  if (const auto most = number(attribute(folder + "/memory.max")); most && *most < facts.memory_max) {
    facts.memory_max = *most;
    facts.memory_current = number(attribute(folder + "/memory.current")).value_or(0);
  }
  if (const auto cpus = parse_cpu_max(attribute(folder + "/cpu.max"));
      cpus && (!facts.cpus || *cpus < *facts.cpus))
    facts.cpus = cpus;
}

CgroupFacts gather_cgroup() {
  CgroupFacts facts;
  const std::string text = "\n" + attribute("/proc/self/cgroup");
  const std::size_t at = text.find("\n0::");
  if (at == std::string::npos) return facts;
  facts.version_2 = true;
  facts.path = text.substr(at + 4, text.find('\n', at + 4) - at - 4);
  for (const char* root : kUnifiedRoots) {
    std::error_code ignored;
    if (!std::filesystem::exists(std::string(root) + "/cgroup.controllers", ignored)) continue;
    for (std::filesystem::path path = facts.path; path.has_relative_path(); path = path.parent_path())
      take_cgroup_limits(root + path.string(), facts);
    break;
  }
  return facts;
}

unsigned usable_cpus() {
  // More CPUs than the fixed set has room for make the call fail.
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
  return static_cast<unsigned>(CPU_COUNT(&set));
}

}  // namespace

std::optional<std::uint64_t> meminfo_field(std::string_view meminfo, std::string_view name) {
  for (std::size_t at = 0; at < meminfo.size();) {
    const std::size_t end = std::min(meminfo.find('\n', at), meminfo.size());
    std::string_view line = meminfo.substr(at, end - at);
    at = end + 1;
    if (!line.starts_with(name) || line.size() == name.size() || line[name.size()] != ':') continue;
    line.remove_prefix(std::min(line.find_first_not_of(' ', name.size() + 1), line.size()));
    const auto value = number(line);
    const bool in_kib = line.ends_with("kB");
    if (!value || (in_kib && *value > UINT64_MAX / 1024)) return std::nullopt;
    return in_kib ? *value * 1024 : *value;
  }
  return std::nullopt;
}

std::string chosen_word(std::string_view text) {
  const std::size_t begin = text.find('[');
  const std::size_t end = text.find(']');
  if (begin == std::string_view::npos || end == std::string_view::npos || end < begin) return {};
  return std::string(text.substr(begin + 1, end - begin - 1));
}

std::optional<double> parse_cpu_max(std::string_view text) {
  const std::size_t blank = text.find(' ');
  if (blank == std::string_view::npos) return std::nullopt;
  const auto quota = number(text.substr(0, blank));
  const auto period = number(text.substr(blank + 1));
  if (!quota || !period || *period == 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

HostFacts gather_host_facts() {
  HostFacts facts;
  utsname name{};
  if (uname(&name) == 0) facts.kernel_release = name.release;
  const std::string cpuinfo = read_file("/proc/cpuinfo", kMaxCpuinfo).value_or("");
  facts.cpu_model = parse_cpu_model(cpuinfo);
  facts.cpu_flags = parse_cpu_flags(cpuinfo);
  facts.cpus_online = static_cast<unsigned>(std::max(0L, sysconf(_SC_NPROCESSORS_ONLN)));
  facts.cpus_usable = usable_cpus();
  facts.virtualization = probe_host_virtualization();
  facts.kvm = gather_kvm();
  facts.qemu = find_qemu(default_qemu_places());
  const std::string meminfo = attribute("/proc/meminfo");
  facts.memory_total = meminfo_field(meminfo, "MemTotal").value_or(0);
  facts.memory_available = parse_mem_available(meminfo);
  facts.huge_pages = gather_huge_pages(meminfo);
  facts.limits = gather_limits();
  facts.cgroup = gather_cgroup();
  facts.clock_source = attribute("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  return facts;
}

}  // namespace ktstr
