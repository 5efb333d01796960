// How many guests this host carries at once without their waiting for each other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ktstr {

// What a guest needs.
struct GuestNeed {
  std::uint32_t vcpus = 1;
  std::uint64_t memory_bytes = 0;  // its RAM
};

// What there is for them.
struct HostRoom {
  double cpus = 1;  // that this process may use
  std::uint64_t memory_bytes = 0;
};
HostRoom host_room();

struct JobsPlan {
  unsigned jobs = 1;
  // One sentence for the user, when it is less than was asked for; else "".
  std::string less_because;
};

// `asked`: nothing, as many as the host carries. At least 1, whatever the host is; no more than `runs`.
JobsPlan plan_jobs(std::optional<unsigned> asked, std::uint64_t runs, const GuestNeed& need,
                   const HostRoom& room);

}  // namespace ktstr
