// The types of three made-up kernels: what a sched_ext of 7.2 and later has, what one of 6.12 had, and none.
#pragma once

#include <set>
#include <string>

namespace ktstr::test {

enum class Shape {
  kNew,      // struct scx_sched, sub-schedulers, per-scheduler state on each CPU
  kNewer,    // the same, and each scheduler has its own kick masks on each CPU
  kLegacy,   // one scheduler, in globals
  kNoScx,    // no sched_ext at all
  kNoTypes,  // nothing that a dump is made of
};

// The .BTF section. Differences that tests rely on: "novelty" members that no field of a dump names, the lock
// of a DSQ is a raw spinlock (kNew) or that of PREEMPT_RT (kLegacy), cfs.h_nr_queued or cfs.h_nr_running.
std::string make_fake_types(Shape shape);
// The same, without some members, and with others as a struct llist_head: "scx_rq.runnable_list".
struct FakeChanges {
  std::set<std::string> without = {};
  std::set<std::string> as_llist = {};
};
std::string make_fake_types(Shape shape, const FakeChanges& changes);

}  // namespace ktstr::test
