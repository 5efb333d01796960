// CgroupManager: CgroupOps on a mounted cgroup v2 hierarchy.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "guest/cgroup/cgroup_ops.h"

namespace ktstr::guest {

class CgroupManager : public CgroupOps {
 public:
  // Name of the group that holds all cgroups of a scenario.
  static constexpr std::string_view kRootName = "ktstr";

  // `mount` is the directory where cgroup2 is mounted (or any cgroup below it without processes of its own).
  explicit CgroupManager(std::string mount);

  Expected<> set_up(const std::set<Controller>& controllers) override;
  Expected<> tear_down() override;
  Expected<> create(const std::string& name) override;
  Expected<> remove(const std::string& name) override;
  Expected<> set(const std::string& name, std::string_view file, std::string_view value) override;
  Expected<> attach(const std::string& name, pid_t pid) override;
  Expected<> kill(const std::string& name) override;
  Expected<std::vector<pid_t>> procs(const std::string& name) override;
  Expected<> freeze(const std::string& name, bool frozen) override;
  UniqueFd open_directory(const std::string& name) override;
  Expected<std::unique_ptr<PopulatedWatch>> watch_populated(const std::string& name) override;

 private:
  Expected<> enable(const std::string& directory, const std::set<Controller>& controllers);
  Expected<std::string> path(const std::string& name) const;

  std::string mount_;
  std::string root_;
};

}  // namespace ktstr::guest
