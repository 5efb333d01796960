#include "host/machine/host_resources.h"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <string>

#include <fmt/core.h>

#include "common/read_file.h"
#include "common/units.h"

namespace ktstr {
namespace {

std::uint64_t soft_limit(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  return limit.rlim_cur;
}

std::string cpuinfo() {
  // About 1.5 KB a CPU.
  constexpr std::size_t kMaxCpuinfo = std::size_t{16} << 20;
  return read_file("/proc/cpuinfo", kMaxCpuinfo).value_or("");
}

}  // namespace

std::uint64_t parse_mem_available(std::string_view meminfo) {
  constexpr std::string_view kKey = "MemAvailable:";
  std::size_t at = meminfo.find(kKey);
  if (at == std::string_view::npos) return UINT64_MAX;
  at = meminfo.find_first_not_of(' ', at + kKey.size());
  if (at == std::string_view::npos) return UINT64_MAX;
  std::uint64_t kib = 0;
  const auto [end, error] = std::from_chars(meminfo.data() + at, meminfo.data() + meminfo.size(), kib);
  if (error != std::errc{} || kib > UINT64_MAX / 1024) return UINT64_MAX;
  return kib * 1024;
}

HostMemory host_memory() {
  return {.available = parse_mem_available(read_attribute("/proc/meminfo").value_or("")),
          .address_space = soft_limit(RLIMIT_AS),
          .file_size = soft_limit(RLIMIT_FSIZE)};
}

std::set<std::string> parse_cpu_flags(std::string_view cpuinfo) {
  std::set<std::string> flags;
  std::size_t at = cpuinfo.starts_with("flags") ? 0 : cpuinfo.find("\nflags");
  if (at == std::string_view::npos) return flags;
  at = cpuinfo.find(':', at);
  if (at == std::string_view::npos) return flags;
  std::string_view line = cpuinfo.substr(at + 1);
  line = line.substr(0, line.find('\n'));
  while (true) {
    const std::size_t begin = line.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return flags;
    line.remove_prefix(begin);
    const std::size_t end = std::min(line.find_first_of(" \t"), line.size());
    flags.emplace(line.substr(0, end));
    line.remove_prefix(end);
  }
}

std::string parse_cpu_model(std::string_view cpuinfo) {
  const std::size_t at = cpuinfo.find("model name");
  if (at == std::string_view::npos) return {};
  std::string_view line = cpuinfo.substr(at, cpuinfo.find('\n', at) - at);
  const std::size_t begin = line.find_first_not_of(" \t:", line.find(':'));
  return begin == std::string_view::npos ? std::string() : std::string(line.substr(begin));
}

std::set<std::string> host_cpu_flags() {
  return parse_cpu_flags(cpuinfo());
}

std::string host_cpu_model() {
  return parse_cpu_model(cpuinfo());
}

Expected<void> check_host_memory(std::uint64_t wanted, const HostMemory& host) {
  if (wanted > host.available) {
    return fail(ErrorCode::kHost, fmt::format("the guest is to have {} of memory, this host has {} available",
                                              format_size(wanted), format_size(host.available)));
  }
  if (wanted > host.address_space) {
    return fail(ErrorCode::kHost,
                fmt::format("the guest is to have {} of memory, the address space limit (ulimit -v) is {}",
                            format_size(wanted), format_size(host.address_space)));
  }
  if (wanted > host.file_size) {
    return fail(ErrorCode::kHost,
                fmt::format("the guest is to have {} of memory, the file size limit (ulimit -f) is {}",
                            format_size(wanted), format_size(host.file_size)));
  }
  return {};
}

}  // namespace ktstr
