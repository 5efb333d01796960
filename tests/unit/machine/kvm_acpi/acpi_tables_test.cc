// The tables byte by byte, as the specification has them and as Linux' parsers read them.
#include "host/machine/kvm/acpi/acpi_tables.h"

#include <set>

#include <gtest/gtest.h>

#include "host/machine/kvm/acpi/hmat.h"
#include "host/machine/kvm/acpi/platform_tables.h"
#include "host/machine/kvm/guest_layout.h"
#include "tests/unit/machine/kvm_acpi/guest_tables.h"

namespace ktstr::kvm {
namespace {

using namespace testing;

std::map<std::string, std::vector<std::byte>> tables_of(const Machine& machine) {
  const auto tables = make_acpi_tables(machine.plan);
  EXPECT_TRUE(tables) << (tables ? "" : tables.error().to_string());
  return tables ? guest_tables(*tables) : std::map<std::string, std::vector<std::byte>>();
}

std::set<std::string> names(const std::map<std::string, std::vector<std::byte>>& tables) {
  std::set<std::string> all;
  for (const auto& [name, bytes] : tables) all.insert(name);
  return all;
}

TEST(AcpiTables, RsdpIsFirstWithBothChecksums) {
  const Machine machine({});
  const auto tables = make_acpi_tables(machine.plan);
  ASSERT_TRUE(tables);
  const View rsdp = View(tables->bytes).first(36);
  std::string signature;
  for (std::size_t i = 0; i < 8; ++i) signature += static_cast<char>(u8(rsdp, i));
  EXPECT_EQ(signature, "RSD PTR ");
  EXPECT_EQ(byte_sum(rsdp.first(20)), 0);
  EXPECT_EQ(byte_sum(rsdp), 0);
  EXPECT_EQ(u8(rsdp, 15), 2);
  EXPECT_EQ(u32(rsdp, 16), 0U);  // no RSDT
  EXPECT_EQ(u32(rsdp, 20), 36U);
}

TEST(AcpiTables, TablesThatAMachineHas) {
  EXPECT_EQ(names(tables_of(Machine({}))), (std::set<std::string>{"APIC", "DSDT", "FACP", "SRAT", "XSDT"}));
  EXPECT_EQ(names(tables_of(Machine({.numa_nodes = 2, .llcs = 2}))),
            (std::set<std::string>{"APIC", "DSDT", "FACP", "SLIT", "SRAT", "XSDT"}));
  EXPECT_EQ(names(tables_of(Machine(cxl_topology()))),
            (std::set<std::string>{"APIC", "DSDT", "FACP", "HMAT", "SLIT", "SRAT", "XSDT"}));
}

TEST(Fadt, IsHardwareReducedWithoutLegacyDevices) {
  const auto tables = tables_of(Machine({}));
  const View fadt(tables.at("FACP"));
  EXPECT_EQ(fadt.size(), 276U);
  EXPECT_EQ(u8(fadt, 8), 6);
  EXPECT_EQ(u8(fadt, 131), 5);
  const std::uint32_t flags = u32(fadt, 112);
  EXPECT_TRUE(flags & 1U << 20);  // hardware-reduced
  EXPECT_TRUE(flags & 1U << 10);  // reset register
  const std::uint16_t boot = u16(fadt, 109);
  EXPECT_FALSE(boot & 1U << 1);  // no 8042
  EXPECT_TRUE(boot & 1U << 2);   // no VGA
  EXPECT_TRUE(boot & 1U << 5);   // no CMOS clock
  EXPECT_EQ(u16(fadt, 46), kSciGsi);
  EXPECT_EQ(u32(fadt, 40), u64(fadt, 140));  // DSDT in both widths
}

TEST(Fadt, ResetAndSleepRegistersAreBytePorts) {
  const auto tables = tables_of(Machine({}));
  const View fadt(tables.at("FACP"));
  const auto expect_port = [&](std::size_t offset, std::uint16_t port) {
    EXPECT_EQ(u8(fadt, offset), 1);      // system I/O
    EXPECT_EQ(u8(fadt, offset + 1), 8);  // bits
    EXPECT_EQ(u8(fadt, offset + 2), 0);
    EXPECT_EQ(u8(fadt, offset + 3), 1);  // byte access
    EXPECT_EQ(u64(fadt, offset + 4), port);
  };
  expect_port(116, kAcpiReset);
  EXPECT_EQ(u8(fadt, 128), kAcpiResetValue);
  expect_port(244, kAcpiSleepControl);
  expect_port(256, kAcpiSleepStatus);
  for (std::size_t offset = 148; offset < 244; ++offset) EXPECT_EQ(u8(fadt, offset), 0) << offset;
}

TEST(Dsdt, RefusesDevicesThatTheTablesCannotSay) {
  const auto refusal = [](AcpiVirtioDevice device) {
    const auto dsdt = make_dsdt(std::span(&device, 1));
    return dsdt ? std::string() : dsdt.error().to_string();
  };
  EXPECT_EQ(refusal({kVirtioMmioGpa, 0x1000, 23}), "");
  EXPECT_NE(refusal({kVirtioMmioGpa, 0x1000, 24}).find("interrupt 24"), std::string::npos);
  EXPECT_NE(refusal({kHighRamGpa, 0x1000, 5}).find("below 4 GiB"), std::string::npos);
  EXPECT_NE(refusal({kHighRamGpa - 0x800, 0x1000, 5}).find("below 4 GiB"), std::string::npos);
  EXPECT_NE(refusal({kVirtioMmioGpa, 0, 5}).find("below 4 GiB"), std::string::npos);
  const std::vector<AcpiVirtioDevice> many(257, {kVirtioMmioGpa, 0x1000, 5});
  const auto dsdt = make_dsdt(many);
  ASSERT_FALSE(dsdt);
  EXPECT_EQ(dsdt.error().code(), ErrorCode::kHost);
}

TEST(Madt, OneLocalApicEntryForEachCpu) {
  // Three cores take the room of four.
  const auto tables = tables_of(Machine({.llcs = 2, .cores_per_llc = 3, .threads_per_core = 2}));
  const View madt(tables.at("APIC"));
  EXPECT_EQ(u32(madt, 36), kLocalApicGpa);
  EXPECT_EQ(u32(madt, 40), 0U);  // no 8259
  std::vector<std::uint32_t> ids, uids;
  for (const View entry : entries(madt, 44)) {
    if (u8(entry, 0) != 0) continue;
    EXPECT_EQ(entry.size(), 8U);
    EXPECT_EQ(u32(entry, 4), 1U);
    uids.push_back(u8(entry, 2));
    ids.push_back(u8(entry, 3));
  }
  EXPECT_EQ(ids, (std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13}));
  EXPECT_EQ(uids, (std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
}

TEST(Madt, InterruptControllerOverridesAndNmi) {
  const auto tables = tables_of(Machine({}));
  const View madt(tables.at("APIC"));
  const std::vector<View> all = entries(madt, 44);
  ASSERT_EQ(all.size(), 5U);
  EXPECT_EQ(u8(all[1], 0), 1);
  EXPECT_EQ(u32(all[1], 4), kIoApicGpa);
  EXPECT_EQ(u32(all[1], 8), 0U);  // its pins are GSIs from 0 on
  EXPECT_EQ(u8(all[2], 0), 2);
  EXPECT_EQ(u8(all[2], 3), 0);  // IRQ 0 is GSI 2
  EXPECT_EQ(u32(all[2], 4), 2U);
  EXPECT_EQ(u16(all[2], 8), 0);
  EXPECT_EQ(u8(all[3], 3), 9);  // level, active high
  EXPECT_EQ(u32(all[3], 4), 9U);
  EXPECT_EQ(u16(all[3], 8), 0xd);
  EXPECT_EQ(u8(all[4], 0), 4);  // every CPU's LINT1
  EXPECT_EQ(u8(all[4], 2), 0xff);
  EXPECT_EQ(u8(all[4], 5), 1);
}

// What Linux makes of the processor entries (acpi_parse_lapic, acpi_parse_x2apic): APIC ids in order.
std::vector<std::uint32_t> ids_linux_registers(View madt) {
  bool any_lapic = false;
  for (const View entry : entries(madt, 44)) any_lapic |= u8(entry, 0) == 0 && u8(entry, 3) != 0xff;
  std::vector<std::uint32_t> ids;
  for (const View entry : entries(madt, 44)) {
    if (u8(entry, 0) == 0 && u8(entry, 3) != 0xff && (u32(entry, 4) & 1) != 0) ids.push_back(u8(entry, 3));
    if (u8(entry, 0) != 9 || u32(entry, 4) == 0xffffffff || (u32(entry, 8) & 1) == 0) continue;
    if (!any_lapic || u32(entry, 4) >= 0xff) ids.push_back(u32(entry, 4));
  }
  return ids;
}

TEST(Madt, LinuxRegistersEveryCpuOfLargeMachines) {
  for (const std::uint32_t cores : {127U, 128U, 129U, 150U, 500U}) {
    const Machine machine({.llcs = 2, .cores_per_llc = cores, .threads_per_core = 1});
    const auto tables = tables_of(machine);
    std::vector<std::uint32_t> expected;
    for (std::uint32_t cpu = 0; cpu < machine.topology.cpus(); ++cpu)
      expected.push_back(apic_id(machine.topology, cpu));
    EXPECT_EQ(ids_linux_registers(tables.at("APIC")), expected) << cores;
  }
}

TEST(Madt, X2ApicEntriesBeginAt255WithTheirOwnNmi) {
  const auto tables = tables_of(Machine({.llcs = 300}));
  std::size_t lapics = 0, x2apics = 0, nmis = 0;
  for (const View entry : entries(tables.at("APIC"), 44)) {
    lapics += u8(entry, 0) == 0;
    if (u8(entry, 0) == 9) {
      EXPECT_EQ(u32(entry, 4), 255 + x2apics);
      EXPECT_EQ(u32(entry, 12), 255 + x2apics);  // UID
      ++x2apics;
    }
    if (u8(entry, 0) == 10) {
      EXPECT_EQ(u32(entry, 4), 0xffffffffU);
      EXPECT_EQ(u8(entry, 8), 1);
      ++nmis;
    }
  }
  EXPECT_EQ(lapics, 255U);
  EXPECT_EQ(x2apics, 45U);
  EXPECT_EQ(nmis, 1U);
}

// Linux' node of every APIC id and its node numbers (acpi_numa_init): processors first, then memory.
struct LinuxNuma {
  std::map<std::uint32_t, std::uint32_t> node_of_domain;
  std::map<std::uint32_t, std::uint32_t> node_of_apic;
  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint32_t>> memory;  // address: size, node

  explicit LinuxNuma(View srat) {
    const auto node = [this](std::uint32_t domain) {
      return node_of_domain.try_emplace(domain, static_cast<std::uint32_t>(node_of_domain.size()))
          .first->second;
    };
    for (const View entry : entries(srat, 48)) {
      if (u8(entry, 0) == 0 && (u32(entry, 4) & 1) != 0)
        node_of_apic[u8(entry, 3)] = node(u8(entry, 2) + 256U * u8(entry, 9));
      if (u8(entry, 0) != 2 || (u32(entry, 12) & 1) == 0) continue;
      // The node counts also where the id is too big (MAX_LOCAL_APIC).
      const std::uint32_t number = node(u32(entry, 4));
      if (u32(entry, 8) < 32768) node_of_apic[u32(entry, 8)] = number;
    }
    for (const View entry : entries(srat, 48)) {
      if (u8(entry, 0) == 1 && (u32(entry, 28) & 1) != 0)
        memory[u64(entry, 8)] = {u64(entry, 16), node(u32(entry, 2))};
    }
  }
};

TEST(Srat, LinuxFindsEveryCpuAndPieceInItsNode) {
  const std::vector<CpuTopology> shapes = {
      {},
      {.numa_nodes = 2, .llcs = 4, .cores_per_llc = 4, .threads_per_core = 2},
      {.numa_nodes = 4, .llcs = 12, .cores_per_llc = 30, .threads_per_core = 1},
      cxl_topology(),
  };
  for (const CpuTopology& shape : shapes) {
    const Machine machine(shape, 8192 - (shape.nodes.empty() ? 0 : 7168));
    const auto tables = tables_of(machine);
    EXPECT_EQ(u32(tables.at("SRAT"), 36), 1U);
    const LinuxNuma numa(tables.at("SRAT"));
    for (std::uint32_t cpu = 0; cpu < shape.cpus(); ++cpu)
      EXPECT_EQ(numa.node_of_apic.at(apic_id(shape, cpu)), cpu_place(shape, cpu).node);
    EXPECT_EQ(numa.node_of_apic.size(), shape.cpus());
    ASSERT_EQ(numa.memory.size(), machine.plan.ram.size());
    for (const RamPiece& piece : machine.plan.ram)
      EXPECT_EQ(numa.memory.at(piece.gpa), std::pair(piece.size, piece.node));
  }
}

std::vector<NumaNode> nodes_with(std::initializer_list<std::uint32_t> llcs) {
  std::vector<NumaNode> nodes;
  for (const std::uint32_t count : llcs) nodes.emplace_back().llcs = count;
  return nodes;
}

TEST(Srat, MemoryOnlyNodesKeepTheirNumbersBeforeNodesWithCpus) {
  const CpuTopology shape{.numa_nodes = 4, .llcs = 2, .cores_per_llc = 2, .nodes = nodes_with({0, 1, 0, 1})};
  const auto tables = tables_of(Machine(shape));
  const LinuxNuma numa(tables.at("SRAT"));
  for (std::uint32_t node = 0; node < 4; ++node) EXPECT_EQ(numa.node_of_domain.at(node), node);
  EXPECT_EQ(numa.node_of_apic.at(0), 1U);
  EXPECT_EQ(numa.node_of_apic.at(3), 3U);
  // Where APIC id 255 is a real processor, it keeps its node, on whichever side the one without CPUs is.
  const CpuTopology before{.numa_nodes = 2, .llcs = 300, .nodes = nodes_with({0, 300})};
  EXPECT_EQ(LinuxNuma(tables_of(Machine(before)).at("SRAT")).node_of_apic.at(255), 1U);
  const CpuTopology behind{.numa_nodes = 3, .llcs = 310, .nodes = nodes_with({300, 0, 10})};
  const LinuxNuma found(tables_of(Machine(behind)).at("SRAT"));
  EXPECT_EQ(found.node_of_apic.at(255), 0U);
  EXPECT_EQ(found.node_of_apic.at(309), 2U);
}

TEST(Slit, HasTheMatrix) {
  const auto tables = tables_of(Machine(cxl_topology()));
  const View slit(tables.at("SLIT"));
  EXPECT_EQ(u64(slit, 36), 3U);
  std::vector<std::uint8_t> matrix;
  for (std::size_t i = 44; i < slit.size(); ++i) matrix.push_back(u8(slit, i));
  EXPECT_EQ(matrix, cxl_topology().distances);
}

// A locality structure as Linux reads it: values by (initiator, target), in ns or MB/s.
std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> locality(View hmat, std::uint8_t type) {
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> values;
  for (std::size_t offset = 40; offset < hmat.size(); offset += u32(hmat, offset + 4)) {
    if (u16(hmat, offset) != 1 || u8(hmat, offset + 9) != type) continue;
    EXPECT_EQ(u8(hmat, offset + 8), 0);  // memory
    const std::uint32_t initiators = u32(hmat, offset + 12), targets = u32(hmat, offset + 16);
    const std::uint64_t unit = u64(hmat, offset + 24);
    const std::size_t lists = offset + 32, matrix = lists + 4 * (initiators + targets);
    EXPECT_EQ(u32(hmat, offset + 4), matrix - offset + 2 * initiators * targets);
    for (std::size_t i = 0; i < initiators; ++i) {
      for (std::size_t t = 0; t < targets; ++t) {
        const std::uint64_t entry = u16(hmat, matrix + 2 * (i * targets + t));
        EXPECT_TRUE(entry != 0 && entry != 0xffff && entry * unit <= 0xffffffff);
        values[{u32(hmat, lists + 4 * i), u32(hmat, lists + 4 * (initiators + t))}] =
            type == 0 ? (entry * unit + 999) / 1000 : entry * unit;
      }
    }
  }
  return values;
}

TEST(Hmat, AttachesMemoryToTheNearestCpus) {
  const auto tables = tables_of(Machine(cxl_topology()));
  const View hmat(tables.at("HMAT"));
  EXPECT_EQ(u8(hmat, 8), 2);
  std::map<std::uint32_t, std::uint32_t> initiator_of;
  for (std::size_t offset = 40; offset < hmat.size(); offset += u32(hmat, offset + 4)) {
    if (u16(hmat, offset) != 0) continue;
    EXPECT_EQ(u32(hmat, offset + 4), 40U);
    EXPECT_EQ(u16(hmat, offset + 8), 1);  // the initiator is valid
    initiator_of[u32(hmat, offset + 16)] = u32(hmat, offset + 12);
  }
  EXPECT_EQ(initiator_of, (std::map<std::uint32_t, std::uint32_t>{{0, 0}, {1, 1}, {2, 1}}));
}

TEST(Hmat, LatencyAndBandwidthFromEveryNodeWithCpus) {
  const auto tables = tables_of(Machine(cxl_topology()));
  using Values = std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t>;
  // Node 1 says nothing and has what DRAM has; others than the nearest pay by distance: 90 * 21 / 10.
  EXPECT_EQ(
      locality(tables.at("HMAT"), 0),
      (Values{{{0, 0}, 90}, {{0, 1}, 210}, {{0, 2}, 514}, {{1, 0}, 189}, {{1, 1}, 100}, {{1, 2}, 300}}));
  EXPECT_EQ(locality(tables.at("HMAT"), 3), (Values{{{0, 0}, 60000},
                                                    {{0, 1}, 24381},
                                                    {{0, 2}, 11667},
                                                    {{1, 0}, 28571},
                                                    {{1, 1}, 51200},
                                                    {{1, 2}, 20000}}));
}

TEST(Hmat, ACacheInFrontOfANodesMemory) {
  CpuTopology shape = cxl_topology();
  const auto caches_of = [](const View& hmat) {
    std::map<std::uint32_t, std::uint64_t> sizes;
    for (std::size_t offset = 40; offset < hmat.size(); offset += u32(hmat, offset + 4)) {
      if (u16(hmat, offset) != 2) continue;
      EXPECT_EQ(u32(hmat, offset + 4), 32U);
      EXPECT_EQ(u32(hmat, offset + 24), 0x401111U);  // level 1 of 1, direct mapped, writes back, 64 bytes
      EXPECT_EQ(u16(hmat, offset + 30), 0U);         // no SMBIOS handles
      sizes[u32(hmat, offset + 8)] = u64(hmat, offset + 16);
    }
    return sizes;
  };
  const auto tables = tables_of(Machine(shape));
  EXPECT_EQ(caches_of(View(tables.at("HMAT"))), (std::map<std::uint32_t, std::uint64_t>{{2, 64 * kMiB}}));
  // Alone it is reason enough for the table.
  for (NumaNode& node : shape.nodes) node.latency_ns = node.bandwidth_mbs = std::nullopt;
  EXPECT_TRUE(tables_of(Machine(shape)).contains("HMAT"));
  shape.nodes[2].memory_side_cache_bytes = 0;
  EXPECT_FALSE(tables_of(Machine(shape)).contains("HMAT"));
}

TEST(Hmat, LargeValuesTakeACoarserUnit) {
  CpuTopology shape = cxl_topology();
  shape.nodes[0].bandwidth_mbs = 400'000;
  shape.nodes[2].latency_ns = 1'000'000;
  const auto tables = tables_of(Machine(shape));
  auto bandwidth = locality(tables.at("HMAT"), 3);
  EXPECT_NEAR(static_cast<double>(bandwidth[std::pair(0U, 0U)]), 400'000, 7);
  EXPECT_NEAR(static_cast<double>(bandwidth[std::pair(1U, 2U)]), 20'000, 7);
  auto latency = locality(tables.at("HMAT"), 0);
  EXPECT_NEAR(static_cast<double>(latency[std::pair(1U, 2U)]), 1'000'000, 30);
  EXPECT_NEAR(static_cast<double>(latency[std::pair(0U, 0U)]), 90, 30);
}

TEST(Hmat, NodesWithoutMemoryAreNoTargets) {
  CpuTopology shape = cxl_topology();
  const std::vector<RamPiece> ram{{.gpa = 0, .size = kMiB, .node = 2, .file_offset = 0}};
  const std::vector<std::byte> hmat = make_hmat(shape, ram);
  EXPECT_EQ(locality(hmat, 0).size(), 2U);
  EXPECT_EQ(byte_sum(hmat), 0);
  // None at all: a table without structures.
  EXPECT_EQ(make_hmat(shape, {}).size(), 40U);
}

TEST(AcpiTables, TooManyCpusForTheAreaAreRefused) {
  const Machine machine({.llcs = 64, .cores_per_llc = 32, .threads_per_core = 2});
  const auto tables = make_acpi_tables(machine.plan);
  ASSERT_FALSE(tables);
  EXPECT_EQ(tables.error().code(), ErrorCode::kHost);
  EXPECT_NE(tables.error().message().find("4096 vCPUs"), std::string::npos);
}

TEST(AcpiTables, AThousandCpusFit) {
  EXPECT_TRUE(make_acpi_tables(Machine({.llcs = 32, .cores_per_llc = 16, .threads_per_core = 2}).plan));
  EXPECT_TRUE(make_acpi_tables(Machine({.numa_nodes = 64, .llcs = 64, .cores_per_llc = 32}, 16384).plan));
}

}  // namespace
}  // namespace ktstr::kvm
