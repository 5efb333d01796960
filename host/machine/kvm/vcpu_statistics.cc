#include "host/machine/kvm/vcpu_statistics.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/core.h>

namespace ktstr::kvm {
namespace {

// A vCPU of 6.12 has about 60 counters in 5 KiB.
constexpr std::size_t kMaxFile = std::size_t{64} << 10;
constexpr std::uint32_t kMaxCounters = 1024;
constexpr std::uint32_t kMaxName = 256;

template <typename T>
std::optional<T> read_at(std::span<const std::byte> bytes, std::uint64_t offset) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// struct kvm_stats_desc without the name behind it, which gives the struct another size in C++ than in C.
struct Descriptor {
  std::uint32_t flags;
  std::int16_t exponent;
  std::uint16_t values;
  std::uint32_t offset;
  std::uint32_t bucket_size;
};
static_assert(sizeof(Descriptor) == 16);

bool is_plain_sum(const Descriptor& descriptor) {
  if ((descriptor.flags & KVM_STATS_TYPE_MASK) != KVM_STATS_TYPE_CUMULATIVE || descriptor.values != 1)
    return false;
  if ((descriptor.flags & KVM_STATS_BASE_MASK) != KVM_STATS_BASE_POW10) return false;
  switch (descriptor.flags & KVM_STATS_UNIT_MASK) {
    case KVM_STATS_UNIT_NONE:
      return descriptor.exponent == 0;
    case KVM_STATS_UNIT_SECONDS:
      return descriptor.exponent == -9;
    default:
      return false;
  }
}

std::string name_of(std::span<const std::byte> field) {
  const std::string_view text(reinterpret_cast<const char*>(field.data()), field.size());
  std::string name(text.substr(0, text.find('\0')));
  for (char& c : name)
    if (c < ' ' || c > '~') c = '?';
  return name;
}

}  // namespace

VcpuStatistics::VcpuStatistics(int vcpu) : fd_(ioctl(vcpu, KVM_GET_STATS_FD, nullptr)) {}

std::vector<MachineStatistics::Counter> VcpuStatistics::read() const {
  if (!fd_) return {};
  std::vector<std::byte> file(kMaxFile);
  const ssize_t got = pread(fd_.get(), file.data(), file.size(), 0);
  if (got <= 0) return {};
  return parse_statistics(std::span(file).first(static_cast<std::size_t>(got)))
      .value_or(std::vector<MachineStatistics::Counter>());
}

Expected<std::vector<MachineStatistics::Counter>> parse_statistics(std::span<const std::byte> file) {
  const auto header = read_at<kvm_stats_header>(file, 0);
  if (!header)
    return fail(ErrorCode::kHost, fmt::format("statistics of {} bytes have no header", file.size()));
  if (header->num_desc > kMaxCounters || header->name_size == 0 || header->name_size > kMaxName) {
    return fail(ErrorCode::kHost, fmt::format("statistics with {} counters and names of {} bytes",
                                              header->num_desc, header->name_size));
  }
  std::vector<MachineStatistics::Counter> counters;
  const std::uint64_t stride = sizeof(Descriptor) + header->name_size;
  for (std::uint32_t i = 0; i < header->num_desc; ++i) {
    const std::uint64_t at = header->desc_offset + i * stride;
    const auto descriptor = read_at<Descriptor>(file, at);
    if (!descriptor || file.size() - at < stride)
      return fail(ErrorCode::kHost, fmt::format("the statistics end before descriptor {}", i));
    if (!is_plain_sum(*descriptor)) continue;
    const auto value = read_at<std::uint64_t>(file, std::uint64_t{header->data_offset} + descriptor->offset);
    if (!value) return fail(ErrorCode::kHost, fmt::format("the statistics end before value {}", i));
    if (*value == 0) continue;
    counters.push_back({name_of(file.subspan(at + sizeof(Descriptor), header->name_size)), *value});
  }
  return counters;
}

}  // namespace ktstr::kvm
