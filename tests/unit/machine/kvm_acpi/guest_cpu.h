// A CPU as Linux sees it: the topology that a kernel works out from CPUID alone, written from the manuals
// (Intel SDM vol. 3A chapter 9.9, AMD APM vol. 3 appendix E) and from how Linux 6.12 to 7.2 uses them.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace ktstr::kvm::testing {

struct Cpuid {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// A cache of /sys/devices/system/cpu/cpuN/cache.
struct GuestCache {
  std::uint32_t level = 0;
  std::uint32_t type = 0;
  std::uint32_t sharing = 0;  // number of APIC ids
  std::uint64_t size = 0;     // bytes
};

class GuestCpu {
 public:
  explicit GuestCpu(std::vector<kvm_cpuid_entry2> entries);

  // What the instruction returns in a KVM guest, also for leaves that are not there.
  Cpuid cpuid(std::uint32_t function, std::uint32_t index = 0) const;

  bool amd() const { return amd_; }
  std::uint32_t apic_id() const { return apic_id_; }
  std::uint32_t thread_shift() const { return thread_shift_; }
  std::uint32_t package_shift() const { return package_shift_; }
  std::uint32_t package() const { return apic_id_ >> package_shift_; }
  std::uint32_t core() const { return (apic_id_ & ((1U << package_shift_) - 1)) >> thread_shift_; }
  // Nothing: the kernel found no shared last-level cache.
  std::optional<std::uint32_t> llc() const { return llc_; }
  std::uint32_t amd_node() const { return amd_node_; }
  const std::vector<GuestCache>& caches() const { return caches_; }

  // Whether /sys lists the two as sharing `caches()[index]`.
  bool shares_cache(const GuestCpu& other, std::size_t index) const;
  // thread_siblings_list; the caller has seen that the machine has SMT.
  bool same_core(const GuestCpu& other) const;

  // The same by the old way, which older kernels and user space read: leaves 1 and 4, or 0x80000008 and
  // 0x8000001E.
  std::uint32_t legacy_package_shift() const;
  std::uint32_t legacy_thread_shift() const;

 private:
  bool read_levels(std::uint32_t function);
  void read_caches();
  void read_llc();

  std::vector<kvm_cpuid_entry2> entries_;
  bool amd_ = false, hygon_ = false;
  std::uint32_t family_ = 0, model_ = 0;
  std::uint32_t apic_id_ = 0;
  std::uint32_t thread_shift_ = 0, package_shift_ = 0;
  std::uint32_t amd_node_ = 0;
  std::optional<std::uint32_t> llc_;
  std::vector<GuestCache> caches_;
};

}  // namespace ktstr::kvm::testing
