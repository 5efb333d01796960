#include "tests/unit/machine/kvm_acpi/guest_tables.h"

#include <algorithm>
#include <stdexcept>

#include <gtest/gtest.h>

#include "host/machine/kvm/guest_layout.h"

namespace ktstr::kvm::testing {

std::uint64_t number(View bytes, std::size_t offset, std::size_t size) {
  if (offset > bytes.size() || size > bytes.size() - offset)
    throw std::out_of_range("a number beyond the end of a table");
  std::uint64_t value = 0;
  for (std::size_t i = size; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(bytes[offset + i]);
  return value;
}

std::uint8_t byte_sum(View bytes) {
  unsigned sum = 0;
  for (const std::byte b : bytes) sum += std::to_integer<unsigned>(b);
  return static_cast<std::uint8_t>(sum);
}

std::map<std::string, std::vector<std::byte>> guest_tables(const AcpiTables& tables) {
  const View area(tables.bytes);
  std::map<std::string, std::vector<std::byte>> found;
  std::vector<std::pair<std::size_t, std::size_t>> used{{0, 36}};  // offset, end
  const auto take = [&](std::uint64_t gpa) {
    if (gpa < kAcpiGpa || gpa - kAcpiGpa >= area.size()) {
      ADD_FAILURE() << "a pointer to " << gpa << ", outside of the tables";
      return std::string();
    }
    const std::size_t offset = gpa - kAcpiGpa;
    const std::size_t length = u32(area, offset + 4);
    const View table = area.subspan(offset, length);
    std::string signature;
    for (std::size_t i = 0; i < 4; ++i) signature += static_cast<char>(u8(table, i));
    EXPECT_EQ(byte_sum(table), 0) << signature;
    EXPECT_EQ(offset % 8, 0U) << signature;
    used.emplace_back(offset, offset + length);
    found[signature].assign(table.begin(), table.end());
    return signature;
  };
  EXPECT_EQ(take(u64(area, 24)), "XSDT");
  const View xsdt(found["XSDT"]);
  for (std::size_t offset = 36; offset < xsdt.size(); offset += 8) take(u64(xsdt, offset));
  EXPECT_EQ(take(u64(found["FACP"], 140)), "DSDT");
  std::ranges::sort(used);
  for (std::size_t i = 1; i < used.size(); ++i) EXPECT_LE(used[i - 1].second, used[i].first);
  return found;
}

std::vector<View> entries(View table, std::size_t offset) {
  std::vector<View> all;
  while (offset < table.size()) {
    const std::size_t length = u8(table, offset + 1);
    if (length < 2 || length > table.size() - offset) {
      ADD_FAILURE() << "an entry of length " << length << " at " << offset;
      break;
    }
    all.push_back(table.subspan(offset, length));
    offset += length;
  }
  return all;
}

Machine::Machine(CpuTopology shape, std::uint64_t mib) : topology(std::move(shape)) {
  EXPECT_TRUE(check_topology(topology));
  const auto sizes = node_memory(topology, mib * kMiB);
  EXPECT_TRUE(sizes) << (sizes ? "" : sizes.error().to_string());
  plan.topology = &topology;
  if (sizes) plan.ram = lay_out_ram(*sizes, kLowRamEnd);
  plan.virtio = {{kVirtioMmioGpa, 0x1000, 5}, {kVirtioMmioGpa + kVirtioMmioSize, 0x1000, 6}};
}

CpuTopology cxl_topology() {
  return {.numa_nodes = 3,
          .llcs = 2,
          .cores_per_llc = 2,
          .threads_per_core = 1,
          .nodes = {{.llcs = 1, .memory_bytes = 256 * kMiB, .latency_ns = 90, .bandwidth_mbs = 60000},
                    {.llcs = 1, .memory_bytes = 256 * kMiB, .latency_ns = {}, .bandwidth_mbs = {}},
                    {.llcs = 0,
                     .memory_bytes = 512 * kMiB,
                     .latency_ns = 300,
                     .bandwidth_mbs = 20000,
                     .memory_side_cache_bytes = 64 * kMiB}},
          .distances = {10, 21, 24, 21, 10, 14, 24, 14, 10}};
}

}  // namespace ktstr::kvm::testing
