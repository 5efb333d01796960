// How a kernel learns from CPUID where a CPU is, and what we therefore say.
//
// CPUID has no list of CPUs. Each CPU says its own number, the APIC id, and how many low bits of it number
// the threads of a core, the cores of a package, the threads behind a cache. Two CPUs are siblings at a
// level if their APIC ids are equal above that level's bits. So the ids are the topology (topology.h: LLC,
// core, thread), and everything here is a width. NUMA nodes are not in CPUID: SRAT has them.
//
// One package is one LLC
// ----------------------
// Between the LLC and the machine we may draw packages (sockets) as we like; nobody asked for any. One
// package for each node looks like real hardware, one for each LLC is what we do, for these reasons, read in
// arch/x86/kernel of Linux 6.12 to 7.2:
//  - Linux takes the number of cores in a package from the first package and, if that is one core without
//    SMT, does not look for shared caches at all (topology_init_possible_cpus, set_cpu_sibling_map). Nodes
//    may differ in their LLCs, LLCs do not differ in their cores: only packages made of one LLC are all
//    alike.
//  - AMD kernels fall back to "the LLC is APIC id >> package bits" (legacy_set_llc, below), which is right
//    only here.
//  - A package of several nodes would lose the scheduler's PKG domain (build_sched_topology) and, on Intel,
//    turn on what Linux knows about sub-NUMA clustering (match_llc). A package per node would need a node
//    field in the APIC id, of different width for different nodes.
//  - QEMU's -smp has no other way to several LLCs with the default CPU models: both our machines agree.
// The scheduler domains come out the same: MC spans the LLC, PKG the same CPUs and so vanishes, NODE spans
// the LLCs of a node, then NUMA. Cost: Linux compares the TSCs of the first CPU of every package for 20 ms
// (check_tsc_sync_target), if it thinks them synchronous.
//
// What is read where
// ------------------
// Threads and cores: Intel reads leaf 0x1F, then 0xB; AMD reads 0x1F, 0x80000026, then 0xB
// (cpu_parse_topology_ext), each subleaf a level with its shift. Only where none of them is there, leaf 1's
// counts with leaf 4's cores (Intel), or 0x80000008 with 0x8000001E (AMD). KVM's list has only subleaf 0 of
// these leaves, empty, which would make each CPU a package. All of them are written, alike, because user
// space reads whichever it likes.
//
// LLC on Intel: the leaf 4 entry of level 3, "ids that share it" rounded up to a power of two; without a
// level 3 it would be the L2, one core's (intel_cacheinfo_0x4). A host without an L3 in its list therefore
// gets one made up.
//
// LLC on AMD (cacheinfo_amd_init_llc_id): only if leaf 0x80000006 EDX says that there is an L3, and then by
// the family. Before 17h the node id of 0x8000001E; family 17h models 0 to 0x1f, and all Hygon, APIC id >> 3,
// whatever the leaves say; later ones, the last entry of 0x8000001D by its sharing. If EDX is 0, APIC id >>
// package bits. The fixed shift of 3 is wrong for every LLC that has not exactly eight ids, so for those
// families EDX is cleared: the guest's LLC is then the package, ours. /sys has the L3 all the same, because
// its entries come from 0x8000001D, and index 3's CPUs from the LLC id (__cache_amd_cpumap_setup).
// For the smaller caches the same function takes ids modulo the number of sharers, without rounding: that
// number must be a power of two, so three threads of a core count as four.
//
// The sources are KVM's own rules for KVM_SET_CPUID2, which takes what it is given; the Intel SDM volume 2A
// (CPUID) and AMD's APM volume 3, appendix E.
#include "host/machine/kvm/cpuid.h"

#include <asm/kvm_para.h>

#include <algorithm>
#include <array>
#include <utility>

namespace ktstr::kvm {
namespace {

using Entry = kvm_cpuid_entry2;

// Bits of the leaves.
constexpr std::uint32_t kLeaf1EcxPerfCapabilities = 1U << 15;  // PDCM
constexpr std::uint32_t kLeaf1EcxTscDeadline = 1U << 24;
constexpr std::uint32_t kLeaf1EcxHypervisor = 1U << 31;
constexpr std::uint32_t kLeaf1EdxHtt = 1U << 28;
constexpr std::uint32_t kAmdEcxCmpLegacy = 1U << 1;  // 0x80000001
constexpr std::uint32_t kAmdEcxTopologyExtensions = 1U << 22;
constexpr std::uint32_t kAmdEcxPerformanceCounters = 1U << 23 | 1U << 24 | 1U << 28;  // core, NB, LLC
constexpr std::uint32_t kInvariantTsc = 1U << 8;

// Level types of leaves 0xB and 0x1F (thread, core) and of 0x80000026 (core, complex, die, socket).
constexpr std::uint32_t kTypeSmt = 1, kTypeCore = 2;
constexpr std::uint32_t kAmdTypeCore = 1, kAmdTypeComplex = 2, kAmdTypeDie = 3, kAmdTypeSocket = 4;

// Fields of leaves 4 and 0x8000001D.
constexpr std::uint32_t kCacheTypeMask = 0x1f;
constexpr std::uint32_t kCacheSharingShift = 14, kCacheSharingMask = 0xfff;
constexpr std::uint32_t kCacheCoresShift = 26, kCacheCoresMask = 0x3f;
constexpr std::uint32_t kCacheData = 1, kCacheInstructions = 2, kCacheUnified = 3;
constexpr std::uint32_t kMostCaches = 16;  // more subleaves than any CPU has

enum class Vendor { kIntelLike, kAmd, kHygon };

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// The leaves of a vCPU while they are being made.
class Leaves {
 public:
  explicit Leaves(std::span<const Entry> supported) : entries_(supported.begin(), supported.end()) {}

  Entry* find(std::uint32_t function, std::uint32_t index = 0) {
    const auto found = std::ranges::find_if(entries_, [=](const Entry& entry) {
      const bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
      return entry.function == function && (!indexed || entry.index == index);
    });
    return found == entries_.end() ? nullptr : &*found;
  }

  // The leaf, made if it is not there. Valid until the next call that makes or removes one.
  Entry& leaf(std::uint32_t function) {
    if (Entry* entry = find(function)) return *entry;
    entries_.push_back({});
    entries_.back().function = function;
    return entries_.back();
  }

  void add_subleaf(std::uint32_t function, std::uint32_t index, const Registers& registers) {
    Entry entry{};
    entry.function = function;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = registers.eax;
    entry.ebx = registers.ebx;
    entry.ecx = registers.ecx;
    entry.edx = registers.edx;
    entries_.push_back(entry);
  }

  void remove(std::uint32_t function) {
    std::erase_if(entries_, [function](const Entry& entry) { return entry.function == function; });
  }

  void zero(std::uint32_t function) {
    for (Entry& entry : entries_)
      if (entry.function == function) entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
  }

  // Makes `range` (0 or 0x80000000) reach up to `function` at least.
  void reach(std::uint32_t range, std::uint32_t function) {
    Entry& first = leaf(range);
    first.eax = std::max(first.eax, function);
  }
  std::uint32_t last(std::uint32_t range) {
    const Entry* first = find(range);
    return first == nullptr ? range : first->eax;
  }

  std::vector<Entry> take() && { return std::move(entries_); }

 private:
  std::vector<Entry> entries_;
};

// One CPU's place, as CPUID speaks of it.
struct Shape {
  std::uint32_t apic_id = 0;
  std::uint32_t llc = 0, core = 0;
  std::uint32_t thread_bits = 0;   // threads of a core
  std::uint32_t package_bits = 0;  // threads of a package, which is an LLC
  std::uint32_t core_bits = 0;
  std::uint32_t threads = 0;          // of a core
  std::uint32_t package_threads = 0;  // of a package
};

Shape shape_of(const CpuTopology& topology, std::uint32_t cpu) {
  const CpuPlace place = cpu_place(topology, cpu);
  return {.apic_id = apic_id(topology, cpu),
          .llc = place.llc,
          .core = place.core,
          .thread_bits = thread_bits(topology),
          .package_bits = core_bits(topology) + thread_bits(topology),
          .core_bits = core_bits(topology),
          .threads = topology.threads_per_core,
          .package_threads = topology.cores_per_llc * topology.threads_per_core};
}

Vendor vendor_of(Leaves& leaves) {
  const Entry* leaf0 = leaves.find(0);
  if (leaf0 == nullptr) return Vendor::kIntelLike;
  const auto is = [leaf0](std::uint32_t ebx, std::uint32_t edx, std::uint32_t ecx) {
    return leaf0->ebx == ebx && leaf0->edx == edx && leaf0->ecx == ecx;
  };
  if (is(0x68747541, 0x69746e65, 0x444d4163)) return Vendor::kAmd;    // "AuthenticAMD"
  if (is(0x6f677948, 0x6e65476e, 0x656e6975)) return Vendor::kHygon;  // "HygonGenuine"
  return Vendor::kIntelLike;
}

void write_feature_leaf(Leaves& leaves, const Shape& shape, const CpuidOptions& options) {
  Entry& leaf = leaves.leaf(1);
  // Eight bits for each; who has more threads reads leaf 0xB.
  const std::uint32_t ids = std::min(1U << shape.package_bits, 0xffU);
  leaf.ebx = (leaf.ebx & 0xffffU) | ids << 16 | (shape.apic_id & 0xffU) << 24;
  leaf.ecx |= kLeaf1EcxHypervisor;
  leaf.ecx &= ~(kLeaf1EcxPerfCapabilities | kLeaf1EcxTscDeadline);
  if (options.tsc_deadline) leaf.ecx |= kLeaf1EcxTscDeadline;
  leaf.edx &= ~kLeaf1EdxHtt;
  if (shape.package_threads > 1) leaf.edx |= kLeaf1EdxHtt;
}

// Leaves 0xB, 0x1F and 0x80000026: a subleaf for each level with the width of all up to it and the number of
// threads in it, then one that ends them.
void write_levels(Leaves& leaves, std::uint32_t function, const Shape& shape,
                  std::span<const std::uint32_t> types) {
  leaves.remove(function);
  for (std::uint32_t level = 0; level < types.size(); ++level) {
    const bool of_core = level == 0;
    leaves.add_subleaf(function, level,
                       {.eax = of_core ? shape.thread_bits : shape.package_bits,
                        .ebx = of_core ? shape.threads : shape.package_threads,
                        .ecx = types[level] << 8 | level,
                        .edx = shape.apic_id});
  }
  const auto end = static_cast<std::uint32_t>(types.size());
  leaves.add_subleaf(function, end, {.ecx = end, .edx = shape.apic_id});
}

void write_topology_leaves(Leaves& leaves, const Shape& shape) {
  constexpr std::array kLevels{kTypeSmt, kTypeCore};
  leaves.reach(0, 0xb);
  write_levels(leaves, 0xb, shape, kLevels);
  if (leaves.last(0) >= 0x1f) write_levels(leaves, 0x1f, shape, kLevels);
}

Registers made_up_cache(std::uint32_t type, std::uint32_t level, std::uint32_t kib, std::uint32_t ways) {
  constexpr std::uint32_t kLineSize = 64;
  constexpr std::uint32_t kSelfInitialising = 1U << 8;
  return {.eax = type | level << 5 | kSelfInitialising,
          .ebx = (ways - 1) << 22 | (kLineSize - 1),
          .ecx = kib * 1024 / (ways * kLineSize) - 1,
          .edx = 0};
}

std::uint32_t cache_level(const Registers& cache) {
  return cache.eax >> 5 & 7;
}

// The host's caches; those of a plain CPU if it has none, with an L3 in any case.
std::vector<Registers> caches_of(Leaves& leaves, std::uint32_t function) {
  std::vector<Registers> caches;
  for (std::uint32_t index = 0; index < kMostCaches; ++index) {
    const Entry* entry = leaves.find(function, index);
    if (entry == nullptr || (entry->eax & kCacheTypeMask) == 0) break;
    caches.push_back({entry->eax, entry->ebx, entry->ecx, entry->edx});
    if ((entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == 0) break;  // one answer for every index
  }
  if (caches.empty()) {
    caches = {made_up_cache(kCacheData, 1, 32, 8), made_up_cache(kCacheInstructions, 1, 32, 8),
              made_up_cache(kCacheUnified, 2, 1024, 16)};
  }
  if (std::ranges::none_of(caches, [](const Registers& cache) { return cache_level(cache) >= 3; }))
    caches.push_back(made_up_cache(kCacheUnified, 3, 16 * 1024, 16));
  return caches;
}

// Leaf 4 and leaf 0x8000001D have the same fields, but only leaf 4 counts cores.
void write_caches(Leaves& leaves, std::uint32_t function, const Shape& shape, std::uint32_t cores_field) {
  std::vector<Registers> caches = caches_of(leaves, function);
  leaves.remove(function);
  std::uint32_t index = 0;
  for (Registers& cache : caches) {
    const std::uint32_t bits = cache_level(cache) >= 3 ? shape.package_bits : shape.thread_bits;
    const std::uint32_t sharing = std::min((1U << bits) - 1, kCacheSharingMask);
    cache.eax &= ~(kCacheSharingMask << kCacheSharingShift | kCacheCoresMask << kCacheCoresShift);
    cache.eax |= sharing << kCacheSharingShift | cores_field << kCacheCoresShift;
    leaves.add_subleaf(function, index++, cache);
  }
  leaves.add_subleaf(function, index, {});
}

void write_intel_leaves(Leaves& leaves, const Shape& shape) {
  write_caches(leaves, 4, shape, std::min((1U << shape.core_bits) - 1, kCacheCoresMask));
}

// Whether Linux takes the LLC of this CPU from something else than leaf 0x8000001D.
bool guesses_llc(Leaves& leaves, Vendor vendor) {
  if (vendor == Vendor::kHygon) return true;
  const std::uint32_t version = leaves.leaf(1).eax;
  const std::uint32_t base = version >> 8 & 0xf;
  const std::uint32_t family = base == 0xf ? base + (version >> 20 & 0xff) : base;
  const std::uint32_t model = (version >> 4 & 0xf) | (version >> 12 & 0xf0);
  return family < 0x17 || (family == 0x17 && model <= 0x1f);
}

void write_amd_leaves(Leaves& leaves, const Shape& shape, Vendor vendor) {
  constexpr std::uint32_t kExtended = 0x80000000;
  constexpr std::array kLevels{kAmdTypeCore, kAmdTypeComplex, kAmdTypeDie, kAmdTypeSocket};
  leaves.reach(kExtended, 0x8000001e);

  Entry& features = leaves.leaf(0x80000001);
  features.ecx &= ~(kAmdEcxCmpLegacy | kAmdEcxPerformanceCounters);
  features.ecx |= kAmdEcxTopologyExtensions;
  if (shape.package_threads > 1) features.ecx |= kAmdEcxCmpLegacy;

  if (guesses_llc(leaves, vendor)) leaves.leaf(0x80000006).edx = 0;

  // Threads of the package less one, and the bits that number them.
  Entry& sizes = leaves.leaf(0x80000008);
  sizes.ecx = (sizes.ecx & ~0xf0ffU) | std::min(shape.package_threads - 1, 0xffU) |
              std::min(shape.package_bits, 0xfU) << 12;

  write_caches(leaves, 0x8000001d, shape, 0);

  // Core within the package; threads of a core less one; node, of which a package has one. AMD's node is a
  // die: with 256 packages or more the eight bits begin again, which nobody minds, as nobody compares nodes
  // of different packages.
  Entry& place = leaves.leaf(0x8000001e);
  place.eax = shape.apic_id;
  place.ebx = (shape.core & 0xffU) | std::min(shape.threads - 1, 0xffU) << 8;
  place.ecx = shape.llc & 0xffU;
  place.edx = 0;

  if (leaves.last(kExtended) >= 0x80000026 && leaves.find(0x80000026) != nullptr)
    write_levels(leaves, 0x80000026, shape, kLevels);
}

void write_kvm_leaves(Leaves& leaves, const CpuidOptions& options) {
  Entry* features = leaves.find(KVM_CPUID_FEATURES);
  if (features == nullptr) return;  // KVM always lists it; a made-up one would promise features
  features->eax &= ~(1U << KVM_FEATURE_MSI_EXT_DEST_ID);
  if (options.msi_ext_dest_id) features->eax |= 1U << KVM_FEATURE_MSI_EXT_DEST_ID;
  features->edx &= ~(1U << KVM_HINTS_REALTIME);
  if (options.realtime_hint) features->edx |= 1U << KVM_HINTS_REALTIME;
}

}  // namespace

std::vector<kvm_cpuid_entry2> make_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuTopology& topology, std::uint32_t cpu,
                                         const CpuidOptions& options) {
  Leaves leaves(supported);
  const Shape shape = shape_of(topology, cpu);
  const Vendor vendor = vendor_of(leaves);

  write_feature_leaf(leaves, shape, options);
  write_topology_leaves(leaves, shape);
  if (vendor == Vendor::kIntelLike) {
    write_intel_leaves(leaves, shape);
  } else {
    write_amd_leaves(leaves, shape, vendor);
  }
  // No performance counters: Intel's, Intel's extended and AMD's version 2.
  for (const std::uint32_t counters : {0xaU, 0x23U, 0x80000022U}) leaves.zero(counters);
  if (options.mask_invariant_tsc) {
    if (Entry* power = leaves.find(0x80000007)) power->edx &= ~kInvariantTsc;
  }
  write_kvm_leaves(leaves, options);
  return std::move(leaves).take();
}

}  // namespace ktstr::kvm
