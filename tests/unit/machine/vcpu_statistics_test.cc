#include "host/machine/kvm/vcpu_statistics.h"

#include <linux/kvm.h>

#include <cstring>
#include <random>

#include <gtest/gtest.h>

namespace ktstr::kvm {
namespace {

using Counter = MachineStatistics::Counter;

struct Recorded {
  const char* name;
  std::uint32_t flags;
  std::int16_t exponent;
  std::uint16_t values;
  std::uint32_t offset;
};

// Of a vCPU of Linux 6.18: the first counters, one of the middle and the last but one, as they were.
constexpr std::size_t kDescriptorHead = 16;  // struct kvm_stats_desc without the name
constexpr std::uint32_t kNameSize = 48;
constexpr std::uint32_t kIdOffset = 24;
constexpr std::uint32_t kDescOffset = 72;
constexpr std::uint32_t kDataOffset = 2952;
constexpr std::size_t kFileSize = 4056;
constexpr Recorded kRecorded[] = {
    {"halt_successful_poll", 0x0, 0, 1, 0},
    {"halt_attempted_poll", 0x0, 0, 1, 8},
    {"halt_poll_invalid", 0x0, 0, 1, 16},
    {"halt_wakeup", 0x0, 0, 1, 24},
    {"halt_poll_success_ns", 0x20, -9, 1, 32},
    {"halt_poll_fail_ns", 0x20, -9, 1, 40},
    {"halt_wait_ns", 0x20, -9, 1, 48},
    {"halt_poll_success_hist", 0x24, -9, 32, 56},
    {"halt_poll_fail_hist", 0x24, -9, 32, 312},
    {"halt_wait_hist", 0x24, -9, 32, 568},
    {"blocking", 0x41, 0, 1, 824},
    {"pf_taken", 0x0, 0, 1, 832},
    {"pf_fixed", 0x0, 0, 1, 840},
    {"pf_emulate", 0x0, 0, 1, 848},
    {"pf_spurious", 0x0, 0, 1, 856},
    {"pf_fast", 0x0, 0, 1, 864},
    {"hypercalls", 0x0, 0, 1, 1016},
    {"guest_mode", 0x41, 0, 1, 1088},
};

template <typename T>
void put(std::vector<std::byte>& bytes, std::size_t at, const T& value) {
  ASSERT_LE(at + sizeof(T), bytes.size());
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

kvm_stats_header header() {
  return {.flags = 0,
          .name_size = kNameSize,
          .num_desc = std::size(kRecorded),
          .id_offset = kIdOffset,
          .desc_offset = kDescOffset,
          .data_offset = kDataOffset};
}

std::size_t descriptor_at(std::size_t i) {
  return kDescOffset + i * (kDescriptorHead + kNameSize);
}

// Each value is its number in the list and 1.
std::vector<std::byte> recording() {
  std::vector<std::byte> bytes(kFileSize);
  put(bytes, 0, header());
  for (std::size_t i = 0; i < std::size(kRecorded); ++i) {
    const Recorded& one = kRecorded[i];
    const std::size_t at = descriptor_at(i);
    put(bytes, at, one.flags);
    put(bytes, at + 4, one.exponent);
    put(bytes, at + 6, one.values);
    put(bytes, at + 8, one.offset);
    std::memcpy(bytes.data() + at + kDescriptorHead, one.name, std::strlen(one.name));
    for (std::size_t value = 0; value < one.values; ++value)
      put(bytes, kDataOffset + one.offset + value * 8, std::uint64_t{i + 1});
  }
  return bytes;
}

TEST(VcpuStatistics, SumsAreTakenByName) {
  const auto counters = parse_statistics(recording());
  ASSERT_TRUE(counters) << counters.error().to_string();
  std::vector<Counter> expected;
  for (std::size_t i = 0; i < std::size(kRecorded); ++i) {
    const std::string name = kRecorded[i].name;
    const bool histogram = name.ends_with("_hist");
    const bool momentary = name == "blocking" || name == "guest_mode";
    if (!histogram && !momentary) expected.push_back({name, i + 1});
  }
  EXPECT_EQ(*counters, expected);
}

TEST(VcpuStatistics, ZerosAreLeftOut) {
  auto bytes = recording();
  put(bytes, kDataOffset + kRecorded[0].offset, std::uint64_t{0});
  const auto counters = parse_statistics(bytes);
  ASSERT_TRUE(counters);
  EXPECT_EQ(counters->front().name, kRecorded[1].name);
}

TEST(VcpuStatistics, OtherUnitsAreLeftOut) {
  auto bytes = recording();
  put(bytes, descriptor_at(0), std::uint32_t{KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_BYTES});
  put(bytes, descriptor_at(1), std::uint32_t{KVM_STATS_TYPE_PEAK});
  put(bytes, descriptor_at(2) + 4, std::int16_t{3});
  put(bytes, descriptor_at(3), std::uint32_t{KVM_STATS_BASE_POW2});
  const auto counters = parse_statistics(bytes);
  ASSERT_TRUE(counters);
  EXPECT_EQ(counters->front().name, kRecorded[4].name);
}

TEST(VcpuStatistics, ANameNeedsNoEndAndShowsNothingStrange) {
  auto bytes = recording();
  std::memset(bytes.data() + descriptor_at(0) + kDescriptorHead, 'n', kNameSize);
  std::memcpy(bytes.data() + descriptor_at(1) + kDescriptorHead, "a\033b\200", 5);
  const auto counters = parse_statistics(bytes);
  ASSERT_TRUE(counters);
  EXPECT_EQ((*counters)[0].name, std::string(kNameSize, 'n'));
  EXPECT_EQ((*counters)[1].name, "a?b?");
}

TEST(VcpuStatistics, WhatContradictsItselfIsAnError) {
  const auto with = [](auto change) {
    auto bytes = recording();
    kvm_stats_header changed = header();
    change(changed);
    put(bytes, 0, changed);
    return parse_statistics(bytes);
  };
  EXPECT_FALSE(with([](auto& h) { h.name_size = 0; }));
  EXPECT_FALSE(with([](auto& h) { h.name_size = UINT32_MAX; }));
  EXPECT_FALSE(with([](auto& h) { h.num_desc = UINT32_MAX; }));
  EXPECT_FALSE(with([](auto& h) { h.num_desc = 1000; }));
  EXPECT_FALSE(with([](auto& h) { h.desc_offset = UINT32_MAX; }));
  EXPECT_FALSE(with([](auto& h) { h.data_offset = UINT32_MAX; }));
  EXPECT_FALSE(parse_statistics({}));
}

TEST(VcpuStatistics, NoFileEndIsTooEarly) {
  const auto whole = recording();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto counters = parse_statistics(std::span(whole).first(size));
    if (size < kDataOffset) {
      EXPECT_FALSE(counters) << size;
    }
  }
}

TEST(VcpuStatistics, DamagedFilesDoNoHarm) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    auto bytes = recording();
    for (int damage = 0; damage < 4; ++damage) {
      // Mostly where the structure is.
      const std::size_t end = damage < 3 ? descriptor_at(std::size(kRecorded)) : bytes.size();
      bytes[random() % end] = static_cast<std::byte>(random());
    }
    const auto counters = parse_statistics(bytes);
    if (counters) {
      ASSERT_LE(counters->size(), 1024U);
    }
  }
}

TEST(VcpuStatistics, WithoutADescriptorThereAreNone) {
  EXPECT_TRUE(VcpuStatistics(-1).read().empty());
}

}  // namespace
}  // namespace ktstr::kvm
