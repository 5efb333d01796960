#include "guest/cgroup/recording_cgroups.h"

#include <utility>

#include <fmt/format.h>

namespace ktstr::guest {
namespace {

class RecordedWatch : public CgroupOps::PopulatedWatch {
 public:
  explicit RecordedWatch(const bool& state) : state_(state) {}
  Expected<bool> populated() override { return state_; }
  int fd() const override { return -1; }

 private:
  const bool& state_;
};

}  // namespace

Expected<> RecordingCgroups::record(std::string line) {
  const auto failure = failures.find(line);
  log.push_back(std::move(line));
  if (observer) observer(log.back());
  if (failure == failures.end() || failure->second.times == 0) return {};
  --failure->second.times;
  return std::unexpected(Error::from_errno(failure->second.code, log.back(), failure->second.errno_value));
}

Expected<> RecordingCgroups::set_up(const std::set<Controller>& controllers) {
  std::string line = "set_up";
  for (const Controller controller : controllers) line += fmt::format(" {}", controller_name(controller));
  return record(std::move(line));
}

Expected<> RecordingCgroups::tear_down() {
  return record("tear_down");
}

Expected<> RecordingCgroups::create(const std::string& name) {
  return record("create " + name);
}

Expected<> RecordingCgroups::remove(const std::string& name) {
  return record("remove " + name);
}

Expected<> RecordingCgroups::set(const std::string& name, std::string_view file, std::string_view value) {
  return record(fmt::format("set {} {} {}", name, file, value));
}

Expected<> RecordingCgroups::attach(const std::string& name, pid_t pid) {
  procs_[name].push_back(pid);
  return record("attach " + name);
}

Expected<> RecordingCgroups::kill(const std::string& name) {
  populated[name] = false;
  return record("kill " + name);
}

Expected<std::vector<pid_t>> RecordingCgroups::procs(const std::string& name) {
  return procs_[name];
}

Expected<> RecordingCgroups::freeze(const std::string& name, bool frozen) {
  return record(fmt::format("freeze {} {}", name, frozen ? 1 : 0));
}

UniqueFd RecordingCgroups::open_directory(const std::string& /*name*/) {
  return UniqueFd();
}

Expected<std::unique_ptr<CgroupOps::PopulatedWatch>> RecordingCgroups::watch_populated(
    const std::string& name) {
  return std::make_unique<RecordedWatch>(populated[name]);
}

}  // namespace ktstr::guest
