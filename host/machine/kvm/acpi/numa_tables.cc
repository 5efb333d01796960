#include "host/machine/kvm/acpi/numa_tables.h"

#include "host/machine/kvm/acpi/madt.h"
#include "host/machine/kvm/acpi/table_writer.h"

namespace ktstr::kvm {
namespace {

// Types of SRAT entries and their lengths.
constexpr std::uint8_t kApicAffinity = 0, kApicAffinitySize = 16;
constexpr std::uint8_t kMemoryAffinity = 1, kMemoryAffinitySize = 40;
constexpr std::uint8_t kX2ApicAffinity = 2, kX2ApicAffinitySize = 24;

constexpr std::uint8_t kSratRevision = 3;
constexpr std::uint8_t kSlitRevision = 1;
constexpr std::uint32_t kEnabled = 1;
constexpr std::uint8_t kNoApicId = 0xff;
// Too big for the kernel (MAX_LOCAL_APIC), which still notes the node (acpi_numa_x2apic_affinity_init()).
constexpr std::uint32_t kNoX2ApicId = 0xfffffffe;

void add_apic(TableWriter& srat, std::uint8_t id, std::uint32_t node) {
  srat.u8(kApicAffinity).u8(kApicAffinitySize);
  srat.u8(static_cast<std::uint8_t>(node)).u8(id).u32(kEnabled);
  srat.u8(0);  // local SAPIC EID
  srat.u8(static_cast<std::uint8_t>(node >> 8)).u16(static_cast<std::uint16_t>(node >> 16));
  srat.u32(0);  // clock domain
}

void add_x2apic(TableWriter& srat, std::uint32_t id, std::uint32_t node) {
  srat.u8(kX2ApicAffinity).u8(kX2ApicAffinitySize).u16(0).u32(node).u32(id).u32(kEnabled).u32(0).u32(0);
}

void add_memory(TableWriter& srat, const RamPiece& piece) {
  srat.u8(kMemoryAffinity).u8(kMemoryAffinitySize).u32(piece.node).u16(0);
  srat.u64(piece.gpa).u64(piece.size).u32(0).u32(kEnabled).u64(0);
}

}  // namespace

std::vector<std::byte> make_srat(const CpuTopology& topology, std::span<const RamPiece> ram) {
  TableWriter srat("SRAT", kSratRevision);
  srat.u32(1).u64(0);  // both reserved, the first one "must be 1"
  std::uint32_t next_node = 0;
  for (std::uint32_t cpu = 0; cpu < topology.cpus(); ++cpu) {
    const std::uint32_t node = cpu_place(topology, cpu).node;
    for (; next_node < node; ++next_node) {
      const bool memory_only = first_llc(topology, next_node) == first_llc(topology, next_node + 1);
      if (!memory_only) continue;
      // Where there is a CPU 255, its number is no stand-in: the kernel would take the later entry's node.
      if (max_apic_id(topology) < kFirstX2ApicId) {
        add_apic(srat, kNoApicId, next_node);
      } else {
        add_x2apic(srat, kNoX2ApicId, next_node);
      }
    }
    const std::uint32_t id = apic_id(topology, cpu);
    if (id < kFirstX2ApicId) {
      add_apic(srat, static_cast<std::uint8_t>(id), node);
    } else {
      add_x2apic(srat, id, node);
    }
  }
  for (const RamPiece& piece : ram) add_memory(srat, piece);
  return std::move(srat).finish();
}

std::vector<std::byte> make_slit(const CpuTopology& topology) {
  TableWriter slit("SLIT", kSlitRevision);
  slit.u64(topology.numa_nodes);
  for (std::uint32_t from = 0; from < topology.numa_nodes; ++from)
    for (std::uint32_t to = 0; to < topology.numa_nodes; ++to) slit.u8(node_distance(topology, from, to));
  return std::move(slit).finish();
}

}  // namespace ktstr::kvm
