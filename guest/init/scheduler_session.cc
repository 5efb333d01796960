#include "guest/init/scheduler_session.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include <fmt/format.h>

#include "common/units.h"
#include "guest/init/scheduler_exit.h"
#include "guest/init/slowness.h"

namespace ktstr::guest {
namespace {

using namespace std::chrono_literals;

constexpr auto kAttachPoll = 20ms;
constexpr auto kSlownessPeriod = 500ms;
constexpr auto kLivenessPoll = 100ms;
// A scheduler that has printed nothing for this long after it attached has settled, and any has after this.
constexpr auto kQuiet = 100ms;
constexpr auto kMaxSettling = 1s;
// After the scheduler is gone: time for its process to print its last words and end.
constexpr auto kSettle = 2s;
// A process whose end leaves its scheduler attached this long has pinned it.
constexpr auto kPinned = 2s;
// Patience after SIGINT, SIGTERM and SIGKILL, each counted from the last sign of progress...
constexpr auto kPatience = 10s;
constexpr auto kKillPatience = 5s;
// ... but no more than this in total.
constexpr auto kMaxPatience = 60s;

}  // namespace

SchedulerSession::SchedulerSession(InitSupervisor& supervisor, ktstr::v1::SchedulerSpec spec,
                                   AttachLimits limits, ScxStateReader scx)
    : supervisor_(supervisor), spec_(std::move(spec)), limits_(limits), scx_(std::move(scx)) {
  result_.set_name(spec_.name());
}

SchedulerSession::~SchedulerSession() {
  if (liveness_ != 0) supervisor_.loop().cancel_timer(liveness_);
  supervisor_.set_scheduler_cpu_source({});
  if (process_) supervisor_.forget_child(process_->pid());
}

void SchedulerSession::update(ktstr::v1::SchedulerUpdate::State state, const std::string& text) {
  ktstr::v1::Frame frame;
  ktstr::v1::SchedulerUpdate& update = *frame.mutable_scheduler();
  update.set_state(state);
  if (process_) update.set_pid(process_->pid());
  update.set_ops(result_.ops());
  update.set_text(text);
  supervisor_.send(std::move(frame));
}

// ---- attaching

Expected<> SchedulerSession::attach() {
  supervisor_.set_phase("attaching");
  Expected<> attached = start();
  if (attached) attached = wait_attached();
  if (!attached) {
    const Error& error = attached.error();
    result_.set_exit_message(error.message());
    update(error.code() == ErrorCode::kSchedulerDied ? ktstr::v1::SchedulerUpdate::DIED
                                                     : ktstr::v1::SchedulerUpdate::FAILED,
           error.to_string());
    return attached;
  }
  result_.set_attach_ns(static_cast<std::uint64_t>((monotonic_now() - start_).count()));
  update(ktstr::v1::SchedulerUpdate::ATTACHED);
  watch_liveness();
  return {};
}

Expected<> SchedulerSession::start() {
  if (!scx_.supported()) {
    return fail(ErrorCode::kKernelLacks,
                "the kernel has no sched_ext (CONFIG_SCHED_CLASS_EXT): /sys/kernel/sched_ext is not there");
  }
  enable_seq_ = scx_.enable_seq();
  start_ = monotonic_now();
  auto process =
      SchedulerProcess::start(spec_.guest_path(), {spec_.args().begin(), spec_.args().end()},
                              supervisor_.loop(), [this](std::string_view data, std::uint64_t dropped) {
                                ktstr::v1::Frame frame;
                                frame.mutable_output()->set_stream(ktstr::v1::Output::SCHEDULER);
                                frame.mutable_output()->set_data(data.data(), data.size());
                                frame.mutable_output()->set_dropped(dropped);
                                supervisor_.send(std::move(frame));
                              });
  if (!process) return std::unexpected(std::move(process.error()));
  process_ = std::move(*process);
  supervisor_.adopt_child(process_->pid());
  supervisor_.set_scheduler_cpu_source([this] { return process_->cpu_time(); });
  update(ktstr::v1::SchedulerUpdate::STARTING);
  return {};
}

Expected<> SchedulerSession::wait_attached() {
  std::chrono::nanoseconds last_cpu{};
  std::uint64_t last_output = 0;
  MonotonicTime last_progress = start_;
  SlownessMeter slowness(limits_.slowness);
  MonotonicTime next_sample = start_ + kSlownessPeriod;
  while (true) {
    if (supervisor_.wait_until(monotonic_now() + kAttachPoll) == Supervisor::Wake::kStopRequested) {
      return give_up(ErrorCode::kInconclusive,
                     "the host asked to stop while the scheduler was being attached");
    }
    // The process first: its end seen, a state read afterwards is the later one.
    const std::optional<int> status = process_->wait_status();
    const ScxState state = scx_.read();
    if (state.phase == ScxPhase::kEnabled && !state.ops.empty()) {
      result_.set_ops(state.ops);
      return {};
    }
    if (status) {
      settle();
      if (enable_seq_ && scx_.enable_seq() > enable_seq_) {
        return give_up(ErrorCode::kSchedulerDied,
                       "left right after it was attached: " + exit_message(evidence()));
      }
      return give_up(ErrorCode::kStartFailed, start_failure_message(*status, process_->tail().lines()));
    }
    const std::chrono::nanoseconds cpu = process_->cpu_time();
    if (cpu != last_cpu || process_->output_bytes() != last_output) last_progress = monotonic_now();
    last_cpu = cpu;
    last_output = process_->output_bytes();
    if (monotonic_now() - last_progress > limits_.idle) {
      return give_up(ErrorCode::kStartFailed, "did not attach: no CPU time used and nothing printed for " +
                                                  format_duration(limits_.idle) + " (sched_ext is " +
                                                  std::string(to_string(state.phase)) + ")");
    }
    if (monotonic_now() >= next_sample) {
      slowness.sample();
      next_sample = monotonic_now() + kSlownessPeriod;
    }
    if (std::chrono::duration<double, std::nano>(cpu) > limits_.cpu * slowness.value()) {
      return give_up(
          ErrorCode::kStartFailed,
          fmt::format("did not attach: it has used {:.1f} s of CPU time, more than {} times the slowness of "
                      "this machine, {:.1f} (sched_ext is {})",
                      std::chrono::duration<double>(cpu).count(), format_duration(limits_.cpu),
                      slowness.value(), to_string(state.phase)));
    }
  }
}

// Ends what was started and makes the error, with the last lines of output as detail.
Expected<> SchedulerSession::give_up(ErrorCode code, const std::string& text) {
  if (!ended()) request_end();
  settle();
  return std::unexpected(Error(code, text).with_detail(output_tail()));
}

// ---- attached

void SchedulerSession::watch_liveness() {
  liveness_ = supervisor_.loop().add_timer(monotonic_now() + kLivenessPoll, kLivenessPoll,
                                           [this] { check_liveness(); });
}

void SchedulerSession::check_liveness() {
  const ScxPhase phase = scx_.phase();
  if (phase != ScxPhase::kEnabled && phase != ScxPhase::kUnknown) {
    supervisor_.set_scheduler_gone();
  } else if (process_->wait_status() && !exited_since_) {
    exited_since_ = monotonic_now();
  } else if (exited_since_ && *exited_since_ != MonotonicTime::max() &&
             monotonic_now() - *exited_since_ > kPinned) {
    exited_since_ = MonotonicTime::max();
    supervisor_.warn("the scheduler's process " + describe_wait_status(*process_->wait_status()) +
                     ", but its scheduler stays attached");
  }
}

void SchedulerSession::wait_settled() {
  const MonotonicTime start = monotonic_now();
  MonotonicTime last_output = start;
  std::uint64_t output = process_->output_bytes();
  while (monotonic_now() - last_output < kQuiet && monotonic_now() - start < kMaxSettling) {
    if (supervisor_.wait_until(monotonic_now() + kAttachPoll) != Supervisor::Wake::kDeadline) return;
    if (std::exchange(output, process_->output_bytes()) != process_->output_bytes())
      last_output = monotonic_now();
  }
}

void SchedulerSession::kill() {
  if (process_) process_->signal_group(SIGKILL);
}

// ---- the end

// Process and scheduler are both gone.
bool SchedulerSession::ended() const {
  const ScxPhase phase = scx_.phase();
  return (!process_ || process_->wait_status()) &&
         (phase == ScxPhase::kDisabled || phase == ScxPhase::kUnknown);
}

// Waits for the end; every bit of CPU time or output shows that it is being worked at and renews the limit.
bool SchedulerSession::wait_ended(std::chrono::nanoseconds limit) {
  const MonotonicTime start = monotonic_now();
  MonotonicTime last_progress = start;
  std::chrono::nanoseconds last_cpu = process_->cpu_time();
  std::uint64_t last_output = process_->output_bytes();
  while (!ended()) {
    const MonotonicTime now = monotonic_now();
    if (now - last_progress > limit || now - start > kMaxPatience) return false;
    supervisor_.wait_until(now + kAttachPoll, -1, true);
    if (process_->cpu_time() != last_cpu || process_->output_bytes() != last_output)
      last_progress = monotonic_now();
    last_cpu = process_->cpu_time();
    last_output = process_->output_bytes();
  }
  return true;
}

void SchedulerSession::request_end() {
  if (!process_) return;
  for (const auto& [signal, patience] : {std::pair<int, std::chrono::nanoseconds>{SIGINT, kPatience},
                                         {SIGTERM, kPatience},
                                         {SIGKILL, kKillPatience}}) {
    process_->signal_group(signal);
    if (wait_ended(patience)) return;
    supervisor_.warn("the scheduler did not end after " + std::string(::sigabbrev_np(signal)) +
                     " (its process " +
                     (process_->wait_status() ? describe_wait_status(*process_->wait_status()) : "is there") +
                     ", sched_ext is " + std::string(to_string(scx_.phase())) + ")");
  }
}

// Waits, not too long, until nothing more can come, and takes the rest of the output.
void SchedulerSession::settle() {
  if (!process_) return;
  const MonotonicTime deadline = monotonic_now() + kSettle;
  while (monotonic_now() < deadline && !(ended() && process_->output_ended())) {
    supervisor_.wait_until(std::min(deadline, monotonic_now() + kAttachPoll), -1, true);
  }
  process_->finish_output();
  if (process_->wait_status()) result_.set_exit_status(exit_code_of(*process_->wait_status()));
}

ExitEvidence SchedulerSession::evidence() {
  for (std::string& message : log_.take_sched_ext()) kernel_messages_.push_back(std::move(message));
  return {
      .wait_status = process_->wait_status(), .output = process_->tail().lines(), .kernel = kernel_messages_};
}

bool SchedulerSession::finish() {
  supervisor_.set_phase("stopping the scheduler");
  if (liveness_ != 0) supervisor_.loop().cancel_timer(std::exchange(liveness_, 0));
  check_liveness();
  bool died = supervisor_.scheduler_gone();
  if (died) {
    settle();
    result_.set_exit_message(exit_message(evidence()));
    if (!ended()) request_end();
  } else {
    update(ktstr::v1::SchedulerUpdate::STOPPING);
    request_end();
    settle();
    // It may have failed in the last moment before it was asked.
    const std::string error = kernel_error(evidence().kernel);
    died = !error.empty();
    if (died) result_.set_exit_message(exit_message(evidence()));
    result_.set_clean_exit(!died && ended() && result_.has_exit_status() && result_.exit_status() == 0);
  }
  update(died ? ktstr::v1::SchedulerUpdate::DIED : ktstr::v1::SchedulerUpdate::STOPPED,
         result_.exit_message());
  return !died;
}

}  // namespace ktstr::guest
