// RecordingCgroups: CgroupOps that only remembers, for tests of whatever uses cgroups.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "guest/cgroup/cgroup_ops.h"

namespace ktstr::guest {

// Every call becomes one line of `log`: "set_up cpu cpuset", "create a", "set a cpu.weight 400", "attach a",
// "kill a", "remove a", "tear_down". A line in `failures` makes the call that would log it fail with that
// errno instead, as often as the number says.
class RecordingCgroups : public CgroupOps {
 public:
  struct Failure {
    int errno_value = 0;
    int times = 1;
    ErrorCode code = ErrorCode::kHost;
  };
  // Called with each line after it was logged.
  using Observer = std::function<void(const std::string&)>;

  std::vector<std::string> log;
  std::map<std::string, Failure> failures;
  std::map<std::string, bool> populated;  // answers of watch_populated; cleared by kill
  Observer observer;

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
  Expected<> record(std::string line);

  std::map<std::string, std::vector<pid_t>> procs_;
};

}  // namespace ktstr::guest
