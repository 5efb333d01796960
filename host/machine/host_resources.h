// What this host is and has, looked at before anything is started.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "common/error.h"

namespace ktstr {

// Limits in bytes; UINT64_MAX where there is none.
struct HostMemory {
  std::uint64_t available = UINT64_MAX;      // MemAvailable of /proc/meminfo
  std::uint64_t address_space = UINT64_MAX;  // RLIMIT_AS
  std::uint64_t file_size = UINT64_MAX;      // RLIMIT_FSIZE: ftruncate(2) of a memfd obeys it
};

// MemAvailable out of the text of /proc/meminfo (Documentation/filesystems/proc.rst), in bytes; UINT64_MAX
// when the text has none.
std::uint64_t parse_mem_available(std::string_view meminfo);
HostMemory host_memory();

// The first CPU's flags ("vmx", "constant_tsc", ...) out of the text of /proc/cpuinfo; empty when it has
// none.
std::set<std::string> parse_cpu_flags(std::string_view cpuinfo);
std::set<std::string> host_cpu_flags();
// The first CPU's name ("model name") out of the same text; empty when it has none.
std::string parse_cpu_model(std::string_view cpuinfo);
std::string host_cpu_model();

// Error kHost, naming both figures, when `wanted` bytes of guest RAM do not fit.
Expected<void> check_host_memory(std::uint64_t wanted, const HostMemory& host);

}  // namespace ktstr
