// One scheduler under test, from its start to its end.
//
// Attaching is judged by progress and not by a clock: scx_lavd takes 70 s under emulation on a loaded host
// and is well all the time, while a scheduler that waits for something that never comes can be given up soon.
// So there are two limits: time without any CPU use and any output, and CPU time, scaled by the measured
// slowness of the machine.
//
// Being attached is what the kernel says (/sys/kernel/sched_ext/state), not what the process says: a process
// can live on for seconds after its scheduler was thrown out, and the kernel needs a while to disable the
// scheduler of a process that died.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "guest/init/init_supervisor.h"
#include "guest/init/kernel_log.h"
#include "guest/init/scheduler_exit.h"
#include "guest/init/scheduler_process.h"
#include "guest/init/scx_state.h"
#include "proto/plan.pb.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

class SchedulerSession {
 public:
  // Lines of output that explain a failed start.
  static constexpr std::size_t kExplainLines = 40;

  struct AttachLimits {
    std::chrono::nanoseconds idle;  // guest time without CPU use and output
    std::chrono::nanoseconds cpu;   // CPU time, on a CPU of slowness 1; at most a day
    double slowness = 1;            // of this machine at its best
  };

  SchedulerSession(InitSupervisor& supervisor, ktstr::v1::SchedulerSpec spec, AttachLimits limits,
                   ScxStateReader scx = ScxStateReader());
  SchedulerSession(const SchedulerSession&) = delete;
  SchedulerSession& operator=(const SchedulerSession&) = delete;
  ~SchedulerSession();

  // Starts the scheduler and waits until the kernel says it is enabled; from then on the supervisor is told
  // when it is gone. Errors: kStartFailed (detail: the last lines of output), kSchedulerDied when it was
  // attached and left at once, kKernelLacks without sched_ext, kInconclusive when the host asked to stop
  // meanwhile.
  Expected<> attach();
  // After attach(): waits until it has been attached for 100 ms and has printed nothing for 100 ms, at most a
  // second; or until it is gone or the host wants to stop.
  void wait_settled();
  // Ends it: SIGINT, SIGTERM, SIGKILL, each with patience, and waits until the kernel has disabled it. True
  // when it was still there and left in good order or at least on request; false when it had died before
  // that, see result().exit_message.
  bool finish();

  // Everything known so far.
  const ktstr::v1::SchedulerResult& result() const { return result_; }
  // The last `kExplainLines` lines of its output.
  std::string output_tail() const { return process_ ? process_->tail().text(kExplainLines) : std::string(); }
  // SIGKILL, for fault injection.
  void kill();

 private:
  void update(ktstr::v1::SchedulerUpdate::State state, const std::string& text = {});
  Expected<> start();
  Expected<> wait_attached();
  Expected<> give_up(ErrorCode code, const std::string& text);
  void watch_liveness();
  void check_liveness();
  bool ended() const;
  bool wait_ended(std::chrono::nanoseconds limit);
  void request_end();
  void settle();
  ExitEvidence evidence();

  InitSupervisor& supervisor_;
  ktstr::v1::SchedulerSpec spec_;
  AttachLimits limits_;
  ScxStateReader scx_;
  KernelLog log_;
  std::vector<std::string> kernel_messages_;
  std::unique_ptr<SchedulerProcess> process_;
  EventLoop::TimerId liveness_ = 0;
  std::optional<std::uint64_t> enable_seq_;
  std::optional<MonotonicTime> exited_since_;
  MonotonicTime start_{};
  ktstr::v1::SchedulerResult result_;
};

}  // namespace ktstr::guest
