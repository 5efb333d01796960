#include "host/machine/vcpu_clock.h"

#include <algorithm>
#include <charconv>

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

VcpuClock::VcpuClock(pid_t pid, std::vector<pid_t> threads) : pid_(pid) {
  std::sort(threads.begin(), threads.end());
  threads.erase(std::unique(threads.begin(), threads.end()), threads.end());
  for (const pid_t tid : threads) threads_.push_back({.tid = tid, .last = {}});
}

Machine::VcpuTime VcpuClock::read() {
  Machine::VcpuTime total;
  for (Thread& thread : threads_) {
    const auto text = read_attribute(fmt::format("/proc/{}/task/{}/schedstat", pid_, thread.tid));
    if (text) thread.last = parse_schedstat(*text).value_or(thread.last);
    total.used += thread.last.used;
    total.waited = std::max(total.waited, thread.last.waited);
  }
  return total;
}

}  // namespace ktstr
