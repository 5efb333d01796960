#include "tests/unit/machine/kvm_acpi/guest_cpu.h"

#include <bit>

#include <gtest/gtest.h>

namespace ktstr::kvm::testing {
namespace {

// Bits that number `count` things.
std::uint32_t order(std::uint32_t count) {
  return count <= 1 ? 0 : static_cast<std::uint32_t>(std::bit_width(count - 1));
}

std::uint32_t bits(std::uint32_t value, unsigned low, unsigned high) {
  return static_cast<std::uint32_t>(value >> low & ((std::uint64_t{1} << (high - low + 1)) - 1));
}

}  // namespace

GuestCpu::GuestCpu(std::vector<kvm_cpuid_entry2> entries) : entries_(std::move(entries)) {
  const Cpuid vendor = cpuid(0);
  hygon_ = vendor.ebx == 0x6f677948;
  amd_ = hygon_ || vendor.ebx == 0x68747541;
  const Cpuid version = cpuid(1);
  family_ = bits(version.eax, 8, 11);
  if (family_ == 15) family_ += bits(version.eax, 20, 27);
  model_ = bits(version.eax, 4, 7) | bits(version.eax, 16, 19) << 4;

  apic_id_ = bits(version.ebx, 24, 31);
  const bool found = (vendor.eax >= 0x1f && read_levels(0x1f)) ||
                     (amd_ && cpuid(0x80000000).eax >= 0x80000026 && read_levels(0x80000026)) ||
                     (vendor.eax >= 0xb && read_levels(0xb));
  EXPECT_TRUE(found) << "no leaf has the levels";
  if (amd_) amd_node_ = bits(cpuid(0x8000001e).ecx, 0, 7);
  read_caches();
  read_llc();
}

Cpuid GuestCpu::cpuid(std::uint32_t function, std::uint32_t index) const {
  for (const kvm_cpuid_entry2& entry : entries_) {
    const bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
    if (entry.function == function && (!indexed || entry.index == index))
      return {entry.eax, entry.ebx, entry.ecx, entry.edx};
  }
  return {};
}

bool GuestCpu::read_levels(std::uint32_t function) {
  std::uint32_t level = 0;
  for (; level < 8; ++level) {
    const Cpuid leaf = cpuid(function, level);
    const std::uint32_t type = bits(leaf.ecx, 8, 15);
    if (type == 0 || bits(leaf.ebx, 0, 15) == 0) break;
    EXPECT_EQ(bits(leaf.ecx, 0, 7), level);
    if (level == 0) {
      EXPECT_EQ(type, 1U);
      apic_id_ = leaf.edx;
      thread_shift_ = bits(leaf.eax, 0, 4);
    }
    EXPECT_EQ(leaf.edx, apic_id_);
    EXPECT_GE(bits(leaf.eax, 0, 4), package_shift_) << "a level is narrower than the one in it";
    package_shift_ = bits(leaf.eax, 0, 4);
  }
  EXPECT_LT(level, 8U) << "no end";
  return level != 0;
}

void GuestCpu::read_caches() {
  for (std::uint32_t index = 0; index < 16; ++index) {
    const Cpuid leaf = cpuid(amd_ ? 0x8000001d : 4, index);
    if (bits(leaf.eax, 0, 4) == 0) return;
    caches_.push_back({.level = bits(leaf.eax, 5, 7),
                       .type = bits(leaf.eax, 0, 4),
                       .sharing = bits(leaf.eax, 14, 25) + 1,
                       .size = (std::uint64_t{bits(leaf.ebx, 0, 11)} + 1) * (bits(leaf.ebx, 12, 21) + 1) *
                               (bits(leaf.ebx, 22, 31) + 1) * (std::uint64_t{leaf.ecx} + 1)});
  }
  ADD_FAILURE() << "the caches have no end";
}

void GuestCpu::read_llc() {
  if (!amd_) {
    // The level 3, else the level 2.
    for (const std::uint32_t level : {2U, 3U})
      for (const GuestCache& cache : caches_)
        if (cache.level == level) llc_ = apic_id_ >> order(cache.sharing) << order(cache.sharing);
    return;
  }
  const bool topology_extensions = (cpuid(0x80000001).ecx & 1U << 22) != 0;
  if (topology_extensions && cpuid(0x80000006).edx != 0) {
    if (hygon_ || (family_ == 0x17 && model_ <= 0x1f)) {
      llc_ = apic_id_ >> 3;
    } else if (family_ < 0x17) {
      llc_ = amd_node_;
    } else if (!caches_.empty()) {
      llc_ = apic_id_ >> order(caches_.back().sharing);
    }
  }
  if (!llc_) llc_ = apic_id_ >> package_shift_;
}

bool GuestCpu::shares_cache(const GuestCpu& other, std::size_t index) const {
  const std::uint32_t sharing = caches_.at(index).sharing;
  if (!amd_) return apic_id_ >> order(sharing) == other.apic_id_ >> order(sharing);
  if (index == 3) return llc_ == other.llc_;
  return apic_id_ / sharing == other.apic_id_ / sharing;
}

bool GuestCpu::same_core(const GuestCpu& other) const {
  if (package() != other.package() || core() != other.core()) return false;
  return !amd_ || (amd_node_ == other.amd_node_ && llc_ == other.llc_);
}

std::uint32_t GuestCpu::legacy_package_shift() const {
  if (!amd_) return order(bits(cpuid(1).ebx, 16, 23));
  const std::uint32_t sizes = cpuid(0x80000008).ecx;
  return bits(sizes, 12, 15) != 0 ? bits(sizes, 12, 15) : order(bits(sizes, 0, 7) + 1);
}

std::uint32_t GuestCpu::legacy_thread_shift() const {
  if (!amd_) return legacy_package_shift() - order(bits(cpuid(4).eax, 26, 31) + 1);
  return order(bits(cpuid(0x8000001e).ebx, 8, 15) + 1);
}

}  // namespace ktstr::kvm::testing
