#include "host/machine/vcpu_clock.h"

#include <algorithm>
#include <charconv>
#include <set>

#include <fmt/core.h>

#include "common/read_file.h"

namespace ktstr {

std::optional<Machine::VcpuTime> parse_schedstat(std::string_view text) {
  std::uint64_t used = 0;
  std::uint64_t waited = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, used);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != ' ') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, waited);
  if (second.ec != std::errc{}) return std::nullopt;
  return Machine::VcpuTime{std::chrono::nanoseconds(used), std::chrono::nanoseconds(waited)};
}

VcpuClock::VcpuClock(pid_t pid, const std::vector<pid_t>& threads) : pid_(pid) {
  std::set<pid_t> known;
  for (const pid_t tid : threads)
    if (known.insert(tid).second) threads_.push_back({.tid = tid, .last = {}});
}

void VcpuClock::look() {
  for (Thread& thread : threads_) {
    const auto text = read_attribute(fmt::format("/proc/{}/task/{}/schedstat", pid_, thread.tid));
    if (text) thread.last = parse_schedstat(*text).value_or(thread.last);
  }
}

Machine::VcpuTime VcpuClock::read() {
  look();
  Machine::VcpuTime total;
  for (const Thread& thread : threads_) {
    total.used += thread.last.used;
    total.waited = std::max(total.waited, thread.last.waited);
  }
  return total;
}

std::vector<MachineStatistics::Vcpu> VcpuClock::read_each() {
  look();
  std::vector<MachineStatistics::Vcpu> each;
  for (const Thread& thread : threads_)
    each.push_back({.ran = thread.last.used, .waited = thread.last.waited});
  return each;
}

}  // namespace ktstr
