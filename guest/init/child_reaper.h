// Orphans end at PID 1, and somebody has to wait for them.
//
// waitid(P_ALL) can not be told to leave a child out, and it reports the same dead child again until that one
// is reaped. So the reaper looks at the first dead child (WNOWAIT); while that is an adopted one, whose owner
// will reap it, the others are found in the list of children that /proc keeps.
#pragma once

#include <set>
#include <string>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr::guest {

class ChildReaper {
 public:
  // Blocks SIGCHLD for this thread and reads it from a descriptor instead.
  static Expected<ChildReaper> create();

  // Readable when a child has died; pass it to `on_signal` then.
  int fd() const { return signals_.get(); }
  void on_signal();

  // `pid` has an owner who reaps it.
  void adopt(int pid) { adopted_.insert(pid); }
  void forget(int pid) { adopted_.erase(pid); }

  // Reaps every dead child that nobody has adopted; never blocks.
  void reap();
  // Orphans reaped so far.
  std::uint64_t reaped() const { return reaped_; }

 private:
  explicit ChildReaper(UniqueFd signals) : signals_(std::move(signals)) {}
  void reap_listed();

  UniqueFd signals_;
  std::set<int> adopted_;
  std::uint64_t reaped_ = 0;
};

}  // namespace ktstr::guest
