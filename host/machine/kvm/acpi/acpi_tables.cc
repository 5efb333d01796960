#include "host/machine/kvm/acpi/acpi_tables.h"

#include <algorithm>
#include <span>
#include <utility>

#include <fmt/core.h>

#include "host/machine/kvm/acpi/hmat.h"
#include "host/machine/kvm/acpi/madt.h"
#include "host/machine/kvm/acpi/numa_tables.h"
#include "host/machine/kvm/acpi/platform_tables.h"
#include "host/machine/kvm/acpi/table_writer.h"
#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm {
namespace {

constexpr std::size_t kRsdpSize = 36;
constexpr std::size_t kRsdpV1Size = 20;  // what its first checksum covers
constexpr std::size_t kRsdpChecksum = 8;
constexpr std::size_t kRsdpExtendedChecksum = 32;
constexpr std::size_t kAlignment = 16;

constexpr std::size_t align_up(std::size_t offset) {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

// Root system description pointer, revision 2 (ACPI 6.5, 5.2.5.3). No RSDT: Linux takes the XSDT where the
// revision says that there is one.
std::vector<std::byte> make_rsdp(std::uint64_t xsdt_gpa) {
  TableWriter writer;
  writer.text("RSD PTR ").u8(0).text("KTSTR ").u8(2).u32(0);
  writer.u32(kRsdpSize).u64(xsdt_gpa).u8(0).zeros(3);
  std::vector<std::byte> rsdp = std::move(writer).take();
  rsdp[kRsdpChecksum] = std::byte{acpi_checksum(std::span(rsdp).first(kRsdpV1Size))};
  rsdp[kRsdpExtendedChecksum] = std::byte{acpi_checksum(rsdp)};
  return rsdp;
}

std::vector<std::byte> make_xsdt(std::span<const std::uint64_t> tables) {
  TableWriter xsdt("XSDT", 1);
  for (const std::uint64_t gpa : tables) xsdt.u64(gpa);
  return std::move(xsdt).finish();
}

// Puts tables one behind the other and knows their addresses.
class Area {
 public:
  // Room for the RSDP and an XSDT of `tables` entries comes first.
  explicit Area(std::size_t tables) : tables_(tables) {
    bytes_.resize(align_up(kRsdpSize) + align_up(kAcpiHeaderSize + tables * sizeof(std::uint64_t)));
  }

  // The table's address.
  std::uint64_t append(std::span<const std::byte> table) {
    const std::uint64_t gpa = kAcpiGpa + bytes_.size();
    bytes_.insert(bytes_.end(), table.begin(), table.end());
    bytes_.resize(align_up(bytes_.size()));
    return gpa;
  }
  void append_listed(std::span<const std::byte> table) { listed_.push_back(append(table)); }

  std::vector<std::byte> finish() && {
    put(0, make_rsdp(kAcpiGpa + align_up(kRsdpSize)));
    listed_.resize(tables_);
    put(align_up(kRsdpSize), make_xsdt(listed_));
    return std::move(bytes_);
  }

 private:
  void put(std::size_t offset, std::span<const std::byte> table) {
    std::ranges::copy(table, bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  std::size_t tables_;
  std::vector<std::byte> bytes_;
  std::vector<std::uint64_t> listed_;  // what the XSDT points to
};

}  // namespace

Expected<AcpiTables> make_acpi_tables(const AcpiPlan& plan) {
  const CpuTopology& topology = *plan.topology;
  Expected<std::vector<std::byte>> dsdt = make_dsdt(plan.virtio);
  if (!dsdt) return propagate(std::move(dsdt.error()), "making the ACPI tables");

  const bool slit = topology.numa_nodes > 1;
  const bool hmat = wants_hmat(topology);
  Area area(3U + (slit ? 1U : 0U) + (hmat ? 1U : 0U));
  // The FADT comes first in the XSDT by custom, and points to the DSDT, which is not in it.
  area.append_listed(make_fadt(area.append(*dsdt)));
  area.append_listed(make_madt(topology));
  area.append_listed(make_srat(topology, plan.ram));
  if (slit) area.append_listed(make_slit(topology));
  if (hmat) area.append_listed(make_hmat(topology, plan.ram));

  AcpiTables tables{std::move(area).finish()};
  constexpr std::size_t kRoom = kAcpiEnd - kAcpiGpa;
  if (tables.bytes.size() > kRoom) {
    return fail(ErrorCode::kHost,
                fmt::format("the ACPI tables of {} vCPUs and {} nodes take {} bytes, there is room for {}: "
                            "use fewer vCPUs",
                            topology.cpus(), topology.numa_nodes, tables.bytes.size(), kRoom));
  }
  return tables;
}

}  // namespace ktstr::kvm
