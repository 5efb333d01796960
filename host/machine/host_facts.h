// What this host offers to a virtual machine: facts only, gathered without starting anything but
// `qemu -version`. host_report.h judges them.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "host/machine/create.h"
#include "host/machine/host_resources.h"
#include "host/machine/kvm/kvm_capabilities.h"
#include "host/machine/kvm/kvm_device.h"
#include "host/machine/tcg/qemu_finder.h"

namespace ktstr {

struct KvmFacts {
  kvm::DeviceFile device;
  std::vector<kvm::CapabilityAnswer> capabilities;  // empty when /dev/kvm does not open
  int max_vcpus = 0;                                // KVM_CAP_MAX_VCPUS
  std::vector<std::string> modules;                 // loaded ones: "kvm", "kvm_amd", ...
  std::string nested;  // parameter `nested` of the vendor's module; "" when it has none
};

struct HugePages {
  std::uint64_t size = 0;   // bytes of one, of the default size; 0: the kernel has none
  std::uint64_t total = 0;  // reserved, in pages
  std::uint64_t free = 0;
  std::string transparent;  // "always", "madvise", "never"; "" when the kernel has none
};

// Soft limits of this process; UINT64_MAX where there is none.
struct ProcessLimits {
  std::uint64_t address_space = UINT64_MAX;  // RLIMIT_AS, bytes
  std::uint64_t file_size = UINT64_MAX;      // RLIMIT_FSIZE, bytes
  std::uint64_t open_files = UINT64_MAX;     // RLIMIT_NOFILE
  std::uint64_t open_files_hard = UINT64_MAX;
  std::uint64_t locked_memory = UINT64_MAX;  // RLIMIT_MEMLOCK, bytes
};

// The cgroup this process is in, where that is one of version 2 with the controllers.
struct CgroupFacts {
  std::string path;                       // "/user.slice/..."; "" when unknown
  bool version_2 = false;                 // /proc/self/cgroup has a line "0::"
  std::uint64_t memory_max = UINT64_MAX;  // smallest memory.max up to the root, bytes
  std::uint64_t memory_current = 0;       // of the cgroup that has it
  std::optional<double> cpus;             // smallest cpu.max up to the root, in CPUs; nullopt: no limit
};

struct HostFacts {
  std::string kernel_release;
  std::string cpu_model;
  std::set<std::string> cpu_flags;
  unsigned cpus_online = 0;
  unsigned cpus_usable = 0;  // sched_getaffinity
  HostVirtualization virtualization;
  KvmFacts kvm;
  Expected<Qemu> qemu = fail(ErrorCode::kHost, "not looked for");
  std::uint64_t memory_total = 0;  // bytes
  std::uint64_t memory_available = UINT64_MAX;
  HugePages huge_pages;
  ProcessLimits limits;
  CgroupFacts cgroup;
  std::string clock_source;  // the host's own
};

HostFacts gather_host_facts();

// A field of /proc/meminfo ("MemTotal", "HugePages_Free"): its number, in bytes where the line says kB.
std::optional<std::uint64_t> meminfo_field(std::string_view meminfo, std::string_view name);
// "always [madvise] never" -> "madvise"
std::string chosen_word(std::string_view text);
// "max 100000" -> nullopt; "150000 100000" -> 1.5 (Documentation/admin-guide/cgroup-v2.rst, cpu.max)
std::optional<double> parse_cpu_max(std::string_view text);

}  // namespace ktstr
