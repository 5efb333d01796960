// VcpuThreads: a thread for each vCPU, and how all of them are held and let go.
//
// The freeze. A vCPU is either in KVM_RUN, or handling an exit, or parked. hold() sets what all are to do,
// then, for each thread, kvm_run.immediate_exit and a signal: the signal gets a vCPU out of guest mode, and
// immediate_exit makes a KVM_RUN return that began just after the thread looked (api.rst, "immediate_exit"; a
// signal alone would be lost there). Each thread completes what its last exit left pending, so that its
// registers are those between two instructions, notes the time, and parks. Nothing makes all stop at one
// instant: the report says when each did.
//
// Anybody may call hold(): the event loop when it wants to look, or the vCPU that ran into a trap, which
// thereby stops the others at once instead of asking the loop to do it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "host/machine/kvm/vcpu.h"
#include "host/machine/machine.h"

namespace ktstr::kvm {

struct VcpuThreadOptions {
  std::vector<std::uint32_t> host_cpus = {};  // one for each vCPU that it is pinned to; empty: none is
  int fifo_priority = 0;                      // of SCHED_FIFO; 0: the usual policy
  // How long end() waits for a thread. A vCPU that does not leave KVM_RUN within it never will.
  std::chrono::milliseconds end_limit = std::chrono::seconds(5);
};

// Where a vCPU that does not park is, as far as anybody can tell from outside.
struct VcpuWhereabouts {
  enum class Place {
    kParked,
    kInKvm,   // in KVM_RUN: in the guest, or in the kernel on its behalf
    kInExit,  // its exit is being answered by us
  };
  Place place = Place::kParked;
  std::chrono::nanoseconds since{};  // how long it has been there
  std::string last_exit;             // Vcpu::last_exit()
  std::optional<std::uint64_t> rip;  // at that exit
  std::string thread;                // "thread 4711 sleeps in the kernel (futex_wait_queue)"
  // "in KVM_RUN for 10.0 s; ...", one line.
  std::string to_string() const;
};

class VcpuThreads {
 public:
  using Clock = std::chrono::steady_clock;
  // What a thread does after an exit.
  enum class Next { kRun, kPark };
  // Called on the vCPU's thread after each exit that is not a mere interruption. `error` is KVM_RUN's errno,
  // 0 for an exit whose reason is in run().
  using Handler = std::function<Next(Vcpu& vcpu, int error)>;

  VcpuThreads() = default;
  ~VcpuThreads() { end(); }
  VcpuThreads(const VcpuThreads&) = delete;
  VcpuThreads& operator=(const VcpuThreads&) = delete;

  // Makes the threads, all parked. `vcpus` must outlive them. Error kHost.
  Expected<void> start(std::vector<Vcpu>& vcpus, Handler handler, const VcpuThreadOptions& options);
  // Lets all run.
  void go();
  // Asks all to park, and returns at once; from any thread. The times of a PauseReport count from the first
  // call.
  void hold();
  // Whether hold() was called after the last go().
  bool held() const;
  // After hold(): waits until all are parked, at most `limit`.
  PauseReport wait_parked(std::chrono::nanoseconds limit);
  bool parked(std::uint32_t cpu);
  // What can be said of a vCPU that did not come to a rendezvous, without touching it. Any thread, until
  // end().
  VcpuWhereabouts whereabouts(std::uint32_t cpu);
  // Makes all leave and joins them. A thread that does not come within some seconds is left alone: false, and
  // its vCPU must not be touched or freed any more. Idempotent.
  bool end();

  const std::vector<pid_t>& thread_ids() const { return thread_ids_; }
  // When the first of them was about to enter the guest for the first time. Any thread.
  std::optional<Clock::time_point> first_run() const;

 private:
  enum class Wish { kPark, kRun, kEnd };
  struct Slot {
    std::thread thread;
    bool parked = false;
    bool ended = false;
    std::optional<Clock::time_point> parked_at;
    std::atomic<VcpuWhereabouts::Place> place = VcpuWhereabouts::Place::kParked;
    std::atomic<Clock::rep> place_since = 0;
  };

  void note_first_run();
  void work(Vcpu& vcpu, Slot& slot);
  void run_guest(Vcpu& vcpu, Slot& slot);
  static void note_place(Slot& slot, VcpuWhereabouts::Place place);
  // Parks until something else is wished; false: it is the end.
  bool park(Vcpu& vcpu, Slot& slot);
  void wish(Wish wish);

  std::vector<Vcpu>* vcpus_ = nullptr;
  Handler handler_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<pid_t> thread_ids_;
  std::mutex mutex_;  // of the slots' states and of changes of wish_
  std::condition_variable changed_;
  std::atomic<Wish> wish_ = Wish::kPark;
  std::optional<Clock::time_point> held_at_;
  std::atomic<Clock::rep> first_run_ = 0;  // 0: has not been
  std::chrono::milliseconds end_limit_{};
  bool abandoned_ = false;
};

}  // namespace ktstr::kvm
