// CPUID as a guest reads it: for every host and every topology, a decoder in the manner of Linux must find
// exactly what was asked for.
#include "host/machine/kvm/cpuid.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "host/machine/kvm/kvm_requests.h"
#include "tests/unit/machine/kvm_acpi/cpuid_hosts.h"
#include "tests/unit/machine/kvm_acpi/guest_cpu.h"
#include "tests/unit/machine/kvm_acpi/guest_tables.h"

namespace ktstr::kvm {
namespace {

using namespace testing;

CpuTopology shape(std::uint32_t nodes, std::uint32_t llcs, std::uint32_t cores, std::uint32_t threads) {
  return {.numa_nodes = nodes, .llcs = llcs, .cores_per_llc = cores, .threads_per_core = threads};
}

std::vector<std::pair<std::string, CpuTopology>> presets() {
  return {{"tiny-1llc", shape(1, 1, 4, 1)},         {"tiny-2llc", shape(1, 2, 2, 1)},
          {"odd-3llc", shape(1, 3, 3, 1)},          {"odd-5llc", shape(1, 5, 3, 1)},
          {"odd-7llc", shape(1, 7, 2, 1)},          {"smt-2llc", shape(1, 2, 2, 2)},
          {"smt-3llc", shape(1, 3, 2, 2)},          {"medium-4llc", shape(1, 4, 4, 2)},
          {"medium-8llc", shape(1, 8, 4, 2)},       {"large-4llc", shape(1, 4, 16, 2)},
          {"large-8llc", shape(1, 8, 8, 2)},        {"near-max-llc", shape(1, 15, 8, 2)},
          {"max-cpu", shape(1, 14, 9, 2)},          {"medium-4llc-nosmt", shape(1, 4, 8, 1)},
          {"medium-8llc-nosmt", shape(1, 8, 8, 1)}, {"large-4llc-nosmt", shape(1, 4, 32, 1)},
          {"large-8llc-nosmt", shape(1, 8, 16, 1)}, {"near-max-llc-nosmt", shape(1, 15, 16, 1)},
          {"max-cpu-nosmt", shape(1, 14, 18, 1)},   {"numa2-4llc", shape(2, 4, 4, 1)},
          {"numa2-8llc", shape(2, 8, 8, 2)},        {"numa2-8llc-nosmt", shape(2, 8, 16, 1)},
          {"numa4-8llc", shape(4, 8, 4, 1)},        {"numa4-12llc", shape(4, 12, 8, 2)}};
}

std::vector<std::pair<std::string, CpuTopology>> odd_shapes() {
  CpuTopology uneven = shape(3, 5, 2, 2);
  uneven.nodes.resize(3);
  uneven.nodes[0].llcs = 1;
  uneven.nodes[1].llcs = 4;
  return {{"one CPU", shape(1, 1, 1, 1)},         {"one core with SMT", shape(1, 1, 1, 2)},
          {"LLCs of one CPU", shape(2, 4, 1, 1)}, {"LLCs of one core", shape(1, 3, 1, 2)},
          {"three threads", shape(1, 2, 3, 3)},   {"uneven nodes, one without CPUs", uneven},
          {"300 CPUs", shape(2, 6, 25, 2)},       {"an LLC of 256 threads", shape(1, 2, 128, 2)}};
}

std::vector<GuestCpu> guest(const CpuidHost& host, const CpuTopology& topology,
                            const CpuidOptions& options = {}) {
  std::vector<GuestCpu> cpus;
  for (std::uint32_t cpu = 0; cpu < topology.cpus(); ++cpu)
    cpus.emplace_back(make_cpuid(host.supported, topology, cpu, options));
  return cpus;
}

// What Linux would put into cpuN/topology and cpuN/cache, compared with the plan, for one pair of CPUs.
// `has_mp` and `has_smt` are set_cpu_sibling_map's: without them it looks for no siblings.
void compare(const GuestCpu& a, const GuestCpu& b, const CpuPlace& at_a, const CpuPlace& at_b, bool has_mp,
             bool has_smt) {
  const bool same_llc = at_a.llc == at_b.llc;
  const bool same_core = same_llc && at_a.core == at_b.core;
  EXPECT_EQ(has_smt && a.same_core(b), same_core) << "thread siblings";
  EXPECT_EQ(has_mp && a.llc() == b.llc(), same_llc) << "last-level cache";
  EXPECT_EQ(a.package() == b.package(), same_llc) << "package";
  for (std::size_t i = 0; i < a.caches().size(); ++i) {
    const bool shared = a.caches()[i].level >= 3 ? same_llc : same_core;
    EXPECT_EQ(a.shares_cache(b, i), shared) << "cache index " << i;
  }
}

void expect_topology(const CpuidHost& host, const CpuTopology& topology) {
  const std::vector<GuestCpu> cpus = guest(host, topology);
  const bool has_smt = topology.threads_per_core > 1;
  const bool has_mp = has_smt || topology.cores_per_llc > 1;
  for (std::uint32_t i = 0; i < cpus.size(); ++i) {
    const CpuPlace place = cpu_place(topology, i);
    EXPECT_EQ(cpus[i].apic_id(), apic_id(topology, i));
    EXPECT_EQ(cpus[i].package(), place.llc);
    EXPECT_EQ(cpus[i].core(), place.core);
    ASSERT_GE(cpus[i].caches().size(), 4U);
    EXPECT_EQ(cpus[i].caches()[3].level, 3U);
    EXPECT_EQ(cpus[i].caches()[3].type, 3U);
    for (const GuestCache& cache : cpus[i].caches()) EXPECT_GE(cache.size, 32U << 10);
    for (std::uint32_t j = 0; j < i; ++j) {
      compare(cpus[i], cpus[j], place, cpu_place(topology, j), has_mp, has_smt);
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "CPUs " << j << " and " << i;
        return;
      }
    }
  }
}

class EveryHost : public ::testing::TestWithParam<CpuidHost> {};

TEST_P(EveryHost, ThePresetsComeOutAsAsked) {
  for (const auto& [name, topology] : presets()) {
    SCOPED_TRACE(name);
    expect_topology(GetParam(), topology);
    if (HasFailure()) return;
  }
}

TEST_P(EveryHost, OddShapesComeOutAsAsked) {
  for (const auto& [name, topology] : odd_shapes()) {
    SCOPED_TRACE(name);
    expect_topology(GetParam(), topology);
    if (HasFailure()) return;
  }
}

TEST_P(EveryHost, TheOldLeavesAgreeWithTheNewOnes) {
  for (const auto& [name, topology] : presets()) {
    SCOPED_TRACE(name);
    const std::vector<GuestCpu> cpus = guest(GetParam(), topology);
    for (const GuestCpu& cpu : cpus) {
      EXPECT_EQ(cpu.legacy_package_shift(), cpu.package_shift());
      EXPECT_EQ(cpu.legacy_thread_shift(), cpu.thread_shift());
    }
  }
}

TEST_P(EveryHost, LeafOneSaysWhatTheGuestHas) {
  const CpuTopology topology = shape(1, 2, 3, 2);
  const GuestCpu cpu = guest(GetParam(), topology)[7];
  const Cpuid leaf = cpu.cpuid(1);
  EXPECT_EQ(leaf.ebx >> 24, apic_id(topology, 7));
  EXPECT_EQ(leaf.ebx >> 16 & 0xff, 8U);  // ids: 4 cores' room, 2 threads
  EXPECT_TRUE(leaf.ecx & 1U << 31);      // hypervisor
  EXPECT_TRUE(leaf.ecx & 1U << 24);      // TSC deadline
  EXPECT_TRUE(leaf.ecx & 1U << 21);      // x2APIC, from the list
  EXPECT_TRUE(leaf.edx & 1U << 28);      // HTT
  EXPECT_FALSE(guest(GetParam(), shape(1, 4, 1, 1))[0].cpuid(1).edx & 1U << 28);
  CpuidOptions options;
  options.tsc_deadline = false;
  EXPECT_FALSE(guest(GetParam(), topology, options)[0].cpuid(1).ecx & 1U << 24);
}

TEST_P(EveryHost, NoPerformanceCounters) {
  const GuestCpu cpu = guest(GetParam(), shape(1, 1, 2, 1))[0];
  EXPECT_EQ(cpu.cpuid(0xa).eax, 0U);
  EXPECT_EQ(cpu.cpuid(0xa).edx, 0U);
  EXPECT_EQ(cpu.cpuid(0x80000022).eax, 0U);
  EXPECT_FALSE(cpu.cpuid(1).ecx & 1U << 15);
  if (cpu.amd()) {
    EXPECT_FALSE(cpu.cpuid(0x80000001).ecx & (1U << 23 | 1U << 24 | 1U << 28));
  }
}

TEST_P(EveryHost, OptionsSetTheirBits) {
  const CpuTopology topology = shape(1, 1, 2, 1);
  const GuestCpu plain = guest(GetParam(), topology)[0];
  EXPECT_EQ(plain.cpuid(0x40000000).ebx, 0x4b4d564bU);  // "KVMK"
  EXPECT_EQ(plain.cpuid(0x80000007).edx & 1U << 8, 0U);
  EXPECT_EQ(plain.cpuid(0x40000001).edx & 1U, 0U);
  EXPECT_EQ(plain.cpuid(0x40000001).eax, 0x01007efbU);  // the list's features
  const CpuidOptions options{
      .realtime_hint = true, .mask_invariant_tsc = false, .tsc_deadline = true, .msi_ext_dest_id = true};
  const GuestCpu other = guest(GetParam(), topology, options)[0];
  EXPECT_NE(other.cpuid(0x80000007).edx & 1U << 8, 0U);
  EXPECT_EQ(other.cpuid(0x40000001).edx & 1U, 1U);
  EXPECT_EQ(other.cpuid(0x40000001).eax, 0x0100fefbU);
}

TEST_P(EveryHost, WhatIsNotTopologyStaysAsTheHostHasIt) {
  const CpuidHost& host = GetParam();
  const GuestCpu cpu = guest(host, shape(1, 2, 2, 2))[3];
  for (const kvm_cpuid_entry2& entry : host.supported) {
    for (const std::uint32_t same : {0x2U, 0x6U, 0x7U, 0xdU, 0x80000005U, 0x80000021U}) {
      if (entry.function != same) continue;
      const Cpuid leaf = cpu.cpuid(entry.function, entry.index);
      EXPECT_TRUE(leaf.eax == entry.eax && leaf.ebx == entry.ebx && leaf.ecx == entry.ecx &&
                  leaf.edx == entry.edx)
          << std::hex << entry.function;
    }
  }
  EXPECT_EQ(cpu.cpuid(0x80000008).eax, GuestCpu(make_cpuid(host.supported, {}, 0, {})).cpuid(0x80000008).eax);
}

TEST_P(EveryHost, NoLeafIsThereTwice) {
  for (const CpuTopology& topology : {shape(1, 1, 1, 1), shape(2, 4, 2, 2)}) {
    const std::vector<kvm_cpuid_entry2> list = make_cpuid(GetParam().supported, topology, 0, {});
    EXPECT_LE(list.size(), 256U);  // KVM_MAX_CPUID_ENTRIES
    for (std::size_t i = 0; i < list.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const bool indexed = (list[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
        EXPECT_FALSE(list[i].function == list[j].function && (!indexed || list[i].index == list[j].index))
            << std::hex << list[i].function;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpuid, EveryHost, ::testing::ValuesIn(all_hosts()), [](const auto& host) {
  std::string name;
  for (const char c : host.param.name) name += c == ' ' ? '_' : c;
  return name;
});

TEST(Cpuid, LevelsOfAnSmtMachineByNumber) {
  const GuestCpu cpu = guest(sapphire_rapids_with_leaf_1f(), shape(1, 2, 3, 2))[9];
  for (const std::uint32_t function : {0xbU, 0x1fU}) {
    const Cpuid smt = cpu.cpuid(function, 0), core = cpu.cpuid(function, 1), end = cpu.cpuid(function, 2);
    EXPECT_EQ(smt.eax, 1U);
    EXPECT_EQ(smt.ebx, 2U);
    EXPECT_EQ(smt.ecx, 0x100U);
    EXPECT_EQ(core.eax, 3U);
    EXPECT_EQ(core.ebx, 6U);
    EXPECT_EQ(core.ecx, 0x201U);
    EXPECT_EQ(end.eax, 0U);
    EXPECT_EQ(end.ebx, 0U);
    EXPECT_EQ(end.ecx, 2U);
    for (const Cpuid& leaf : {smt, core, end}) EXPECT_EQ(leaf.edx, 11U);  // LLC 1, core 1, thread 1
  }
  // The list's end is not moved up to 0x1F where the host has none.
  EXPECT_EQ(guest(sapphire_rapids(), shape(1, 1, 2, 1))[0].cpuid(0).eax, 0x1cU);
}

TEST(Cpuid, AmdLeavesByNumber) {
  const GuestCpu cpu = guest(genoa(), shape(1, 2, 3, 2))[9];
  EXPECT_EQ(cpu.cpuid(0x80000008).ecx & 0xf0ff, 0x3005U);  // 6 threads, 3 bits
  EXPECT_EQ(cpu.cpuid(0x80000001).ecx & (1U << 22 | 2U), 1U << 22 | 2U);
  const Cpuid place = cpu.cpuid(0x8000001e);
  EXPECT_EQ(place.eax, 11U);
  EXPECT_EQ(place.ebx, 0x101U);  // 2 threads, core 1
  EXPECT_EQ(place.ecx, 1U);
  for (std::uint32_t level = 0; level < 4; ++level) {
    const Cpuid leaf = cpu.cpuid(0x80000026, level);
    EXPECT_EQ(leaf.eax, level == 0 ? 1U : 3U);
    EXPECT_EQ(leaf.ebx, level == 0 ? 2U : 6U);
    EXPECT_EQ(leaf.ecx, (level + 1) << 8 | level);
  }
  EXPECT_EQ(cpu.cpuid(0x80000026, 4).ebx, 0U);
  // Sharing: 2 threads, and 8 ids for 6.
  EXPECT_EQ(cpu.cpuid(0x8000001d, 2).eax, 0x00004143U);
  EXPECT_EQ(cpu.cpuid(0x8000001d, 3).eax, 0x0001c163U);
  // Without 0x80000026 in the list the range does not grow to it.
  EXPECT_EQ(guest(milan(), shape(1, 1, 2, 1))[0].cpuid(0x80000000).eax, 0x80000021U);
}

TEST(Cpuid, WhereLinuxWouldGuessTheLlcTheL3SizeIsHidden) {
  const CpuTopology topology = shape(1, 2, 2, 1);
  for (const CpuidHost& host : {naples(), dhyana(), emulated_amd()})
    EXPECT_EQ(guest(host, topology)[0].cpuid(0x80000006).edx, 0U) << host.name;
  for (const CpuidHost& host : {milan(), genoa()})
    EXPECT_EQ(guest(host, topology)[0].cpuid(0x80000006).edx, 0x08009140U) << host.name;
}

TEST(Cpuid, AHostWithoutCachesGetsMadeUpOnes) {
  for (const CpuidHost& host : {intel_without_caches(), emulated_amd()}) {
    const GuestCpu cpu = guest(host, shape(1, 1, 4, 1))[0];
    ASSERT_EQ(cpu.caches().size(), 4U) << host.name;
    EXPECT_EQ(cpu.caches()[0].size, 32U << 10);
    EXPECT_EQ(cpu.caches()[1].size, 32U << 10);
    EXPECT_EQ(cpu.caches()[2].size, 1U << 20);
    EXPECT_EQ(cpu.caches()[3].size, 16U << 20);
  }
  // The host's own are kept.
  EXPECT_EQ(guest(intel_without_l3(), shape(1, 1, 4, 1))[0].caches()[2].size, 2U << 20);
  EXPECT_EQ(guest(sapphire_rapids(), shape(1, 1, 4, 1))[0].caches()[3].size, 260U << 20);
}

TEST(KvmRequests, NumbersAreThoseOfC) {
  EXPECT_EQ(KVM_GET_MSR_INDEX_LIST, 0xc004ae02);
  EXPECT_EQ(KVM_GET_SUPPORTED_CPUID, 0xc008ae05);
  EXPECT_EQ(KVM_SET_GSI_ROUTING, 0x4008ae6a);
  EXPECT_EQ(KVM_GET_MSRS, 0xc008ae88);
  EXPECT_EQ(KVM_SET_MSRS, 0x4008ae89);
  EXPECT_EQ(KVM_SET_SIGNAL_MASK, 0x4004ae8b);
  EXPECT_EQ(KVM_SET_CPUID2, 0x4008ae90);
  EXPECT_EQ(KVM_GET_CPUID2, 0xc008ae91);
}

// KVM itself takes the list.
TEST(Cpuid, KvmTakesWhatWasMade) {
  const std::vector<kvm_cpuid_entry2> supported = own_list();
  if (supported.empty()) GTEST_SKIP() << "no /dev/kvm";
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  ASSERT_GE(vm, 0);
  const int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  ASSERT_GE(vcpu, 0);
  const std::vector<kvm_cpuid_entry2> list = make_cpuid(supported, shape(2, 4, 3, 2), 0, {});
  std::vector<std::uint32_t> buffer((kCountAndPadding + list.size() * sizeof(kvm_cpuid_entry2)) / 4);
  buffer[0] = static_cast<std::uint32_t>(list.size());
  std::memcpy(buffer.data() + kCountAndPadding / 4, list.data(), list.size() * sizeof(kvm_cpuid_entry2));
  EXPECT_EQ(ioctl(vcpu, KVM_SET_CPUID2, buffer.data()), 0) << std::strerror(errno);
  close(vcpu);
  close(vm);
  close(kvm);
}

}  // namespace
}  // namespace ktstr::kvm
