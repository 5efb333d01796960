#include "host/explore/jobs_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "common/units.h"
#include "host/machine/host_cpus.h"
#include "host/machine/host_resources.h"
#include "host/machine/ram_layout.h"

namespace ktstr {
namespace {

// The emulator, its translated code, and ktstr-vm itself.
constexpr std::uint64_t kBesideGuest = 160 * kMiB;
// Of the host's memory, for everybody else.
constexpr std::uint64_t kLeaveFree = 256 * kMiB;
constexpr unsigned kMaxJobs = 512;

unsigned at_least_one(double jobs) {
  return static_cast<unsigned>(std::clamp(jobs, 1.0, static_cast<double>(kMaxJobs)));
}

}  // namespace

HostRoom host_room() {
  return {.cpus = usable_host_cpus(), .memory_bytes = host_memory().available};
}

JobsPlan plan_jobs(std::optional<unsigned> asked, std::uint64_t runs, const GuestNeed& need,
                   const HostRoom& room) {
  const unsigned by_cpus = at_least_one(room.cpus / std::max(need.vcpus, 1U));
  const std::uint64_t free = room.memory_bytes > kLeaveFree ? room.memory_bytes - kLeaveFree : 0;
  const unsigned by_memory =
      at_least_one(static_cast<double>(free) / static_cast<double>(need.memory_bytes + kBesideGuest));
  const auto most_useful = static_cast<unsigned>(std::clamp<std::uint64_t>(runs, 1, kMaxJobs));
  const unsigned wanted = std::min(asked.value_or(kMaxJobs), most_useful);
  JobsPlan plan{.jobs = std::min({wanted, by_cpus, by_memory}), .less_because = {}};
  if (!asked || plan.jobs == wanted) return plan;
  plan.less_because =
      by_memory < by_cpus
          ? fmt::format("{} at once, not {}: each needs {} of memory, and the host has {}", plan.jobs, *asked,
                        format_size(need.memory_bytes + kBesideGuest), format_size(free))
          : fmt::format("{} at once, not {}: each has {} vCPU{}, and the host {:.3g} CPU{}", plan.jobs,
                        *asked, need.vcpus, need.vcpus == 1 ? "" : "s", room.cpus, room.cpus == 1 ? "" : "s");
  return plan;
}

}  // namespace ktstr
