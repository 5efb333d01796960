// CgroupOps: everything a scenario does to cgroups, behind one interface, so that the executor's order of
// things can be tested without a kernel. CgroupManager does it on a real cgroup v2 mount, RecordingCgroups
// writes it down.
#pragma once

#include <sys/types.h>

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "guest/cgroup/controller.h"

namespace ktstr::guest {

// Cgroups are named by one path component below the scenario's own root group. Errors name the file, the
// value that was written and the errno; a missing controller or knob has code kKernelLacks and names the
// kernel option, anything else has code kHost.
class CgroupOps {
 public:
  CgroupOps() = default;
  CgroupOps(const CgroupOps&) = delete;
  CgroupOps& operator=(const CgroupOps&) = delete;
  virtual ~CgroupOps() = default;

  // Makes the scenario's root group and enables `controllers` for its children. First call of all.
  virtual Expected<> set_up(const std::set<Controller>& controllers) = 0;
  // Removes the root group; its children must be gone.
  virtual Expected<> tear_down() = 0;

  virtual Expected<> create(const std::string& name) = 0;
  // rmdir(2). errno EBUSY while there are processes in it; a cgroup that is not there is no error.
  virtual Expected<> remove(const std::string& name) = 0;
  // Writes `value` to the cgroup's file ("cpu.weight").
  virtual Expected<> set(const std::string& name, std::string_view file, std::string_view value) = 0;
  // Moves a process, with all its threads, into the cgroup.
  virtual Expected<> attach(const std::string& name, pid_t pid) = 0;
  // SIGKILLs everything in the cgroup and below, frozen or not, atomically against fork (cgroup.kill,
  // Linux 5.14; by signals where the file is missing).
  virtual Expected<> kill(const std::string& name) = 0;
  // Processes in the cgroup, zombies included as the kernel lists them.
  virtual Expected<std::vector<pid_t>> procs(const std::string& name) = 0;
  virtual Expected<> freeze(const std::string& name, bool frozen) = 0;

  // The cgroup's directory, for clone3(CLONE_INTO_CGROUP); empty: workers are attached after the fork.
  virtual UniqueFd open_directory(const std::string& name) = 0;

  // Watches whether anything still lives in a cgroup (the "populated" line of cgroup.events).
  class PopulatedWatch {
   public:
    PopulatedWatch() = default;
    PopulatedWatch(const PopulatedWatch&) = delete;
    PopulatedWatch& operator=(const PopulatedWatch&) = delete;
    virtual ~PopulatedWatch() = default;
    // Reads the present state. Changes after this call make `fd` readable.
    virtual Expected<bool> populated() = 0;
    // Readable when the state has changed since `populated`.
    virtual int fd() const = 0;
  };
  virtual Expected<std::unique_ptr<PopulatedWatch>> watch_populated(const std::string& name) = 0;
};

}  // namespace ktstr::guest
