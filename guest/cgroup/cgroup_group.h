// CgroupGroup: the cgroups of one step (or of the backdrop), removed together.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/error.h"
#include "guest/cgroup/cgroup_ops.h"
#include "guest/scenario/supervisor.h"

namespace ktstr::guest {

// Owns created cgroups and removes them in reverse order of creation. Declare it before whatever owns the
// processes inside, so that these go first.
class [[nodiscard]] CgroupGroup {
 public:
  // `ops` and `supervisor` must outlive the group.
  CgroupGroup(CgroupOps& ops, Supervisor& supervisor) : ops_(ops), supervisor_(supervisor) {}
  CgroupGroup(const CgroupGroup&) = delete;
  CgroupGroup& operator=(const CgroupGroup&) = delete;
  // Removes what `remove_all` was not called for; errors have nowhere to go.
  ~CgroupGroup();

  Expected<> create(const std::string& name);
  const std::vector<std::string>& names() const { return names_; }

  // Removes every cgroup. One that still has processes is killed (cgroup.kill) and waited for, all of them
  // together at most `patience` of guest time. Returns one error for each cgroup that is still there.
  std::vector<Error> remove_all(std::chrono::nanoseconds patience = kPatience);

  // A SIGKILLed task dies when it next runs; under a scheduler that has just been thrown out this took up
  // to 1.4 s.
  static constexpr std::chrono::nanoseconds kPatience = std::chrono::seconds(5);

 private:
  Expected<> remove_one(const std::string& name, MonotonicTime deadline);
  Expected<> wait_empty(const std::string& name, MonotonicTime deadline);

  CgroupOps& ops_;
  Supervisor& supervisor_;
  std::vector<std::string> names_;
};

}  // namespace ktstr::guest
