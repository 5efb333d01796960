#include "guest/cgroup/cgroup_group.h"

#include <cerrno>
#include <utility>

#include <fmt/format.h>

namespace ktstr::guest {

CgroupGroup::~CgroupGroup() {
  remove_all();
}

Expected<> CgroupGroup::create(const std::string& name) {
  auto created = ops_.create(name);
  if (created) names_.push_back(name);
  return created;
}

std::vector<Error> CgroupGroup::remove_all(std::chrono::nanoseconds patience) {
  std::vector<Error> errors;
  const MonotonicTime deadline = monotonic_now() + patience;
  while (!names_.empty()) {
    const std::string name = std::move(names_.back());
    names_.pop_back();
    if (auto removed = remove_one(name, deadline); !removed) errors.push_back(std::move(removed.error()));
  }
  return errors;
}

Expected<> CgroupGroup::remove_one(const std::string& name, MonotonicTime deadline) {
  auto removed = ops_.remove(name);
  if (removed || removed.error().errno_value() != EBUSY) return removed;
  if (auto killed = ops_.kill(name); !killed) return killed;
  if (auto emptied = wait_empty(name, deadline); !emptied) return emptied;
  return ops_.remove(name);
}

Expected<> CgroupGroup::wait_empty(const std::string& name, MonotonicTime deadline) {
  const auto watch = ops_.watch_populated(name);
  if (!watch) return std::unexpected(watch.error());
  for (;;) {
    const auto populated = (*watch)->populated();
    if (!populated) return std::unexpected(populated.error());
    if (!*populated) return {};
    const auto wake = supervisor_.wait_until(deadline, (*watch)->fd(), true);
    if (wake == Supervisor::Wake::kDeadline) {
      return fail(ErrorCode::kHost, fmt::format("cgroup '{}' still has processes after SIGKILL", name));
    }
  }
}

}  // namespace ktstr::guest
