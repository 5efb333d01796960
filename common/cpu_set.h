// CpuSet: a set of CPU (or node) numbers and the kernel's list format for it ("0-3,8").
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "common/error.h"

namespace ktstr {

// A sorted set of CPU numbers below kMaxCpus.
class CpuSet {
 public:
  // Larger than any kernel's NR_CPUS (8192 on x86-64).
  static constexpr std::uint32_t kMaxCpus = 8192;

  CpuSet() = default;
  explicit CpuSet(std::set<std::uint32_t> cpus) : cpus_(std::move(cpus)) {}
  // {0, ..., count - 1}
  static CpuSet first(std::uint32_t count);
  // Parses the kernel's list format (lib/bitmap.c, bitmap_parselist): comma-separated numbers and ranges
  // "a-b", also "a-b:used/group"; blanks around elements and a trailing newline are allowed; "" is the empty
  // set; "all" is {0..limit-1}. A number >= limit, a reversed range, or rubbish is an error (kUsage) that
  // names the element.
  static Expected<CpuSet> parse(std::string_view text, std::uint32_t limit = kMaxCpus);

  bool empty() const { return cpus_.empty(); }
  std::size_t size() const { return cpus_.size(); }
  bool contains(std::uint32_t cpu) const { return cpus_.contains(cpu); }
  bool is_subset_of(const CpuSet& other) const;
  void insert(std::uint32_t cpu) { cpus_.insert(cpu); }
  const std::set<std::uint32_t>& cpus() const { return cpus_; }
  // The shortest list, e.g. "0-3,8"; "" for the empty set.
  std::string to_string() const;
  bool operator==(const CpuSet&) const = default;

 private:
  std::set<std::uint32_t> cpus_;
};

}  // namespace ktstr
