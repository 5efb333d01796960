#include "host/run/attempt.h"

#include <algorithm>

#include <fmt/format.h>

#include "host/run/own_memory.h"

namespace ktstr {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

constexpr auto kTick = 250ms;
// How long a guest that was asked to stop, or whose kernel has just died, may take to end by itself.
constexpr nanoseconds kStopGrace = 10s;
constexpr nanoseconds kDeathGrace = 3s;
// Machine time after which the rest of a frame is no longer expected; PID 1 writes a frame in one go.
constexpr nanoseconds kStuckFrame = 5s;

}  // namespace

Attempt::Attempt(boost::asio::io_context& loop, Machine& machine, const ktstr::v1::RunPlan& plan,
                 const GuardLimits& limits, Logs& logs, StatusLine& status, bool verbose)
    : machine_(machine),
      plan_(plan),
      logs_(logs),
      status_(status),
      loop_(loop),
      tick_(loop),
      session_({.on_hello = [this] { send_plan(); },
                .on_scheduler_output = [this](std::string_view text) { logs_.scheduler.append(text); },
                .on_event = [this](const std::string& text) { status_.event(text); }}),
      guard_(limits) {
  if (!verbose) return;
  console_.set_line_receiver([this](const std::string& line) { status_.event("console: " + line); });
  session_.set_note_receiver([this](const std::string& text) { status_.event("PID 1: " + text); });
}

std::chrono::nanoseconds Attempt::since_start() const {
  return std::chrono::steady_clock::now() - start_;
}

Expected<void> Attempt::run() {
  machine_.set_console_receiver([this](ConsolePort port, std::span<const std::byte> bytes) {
    if (port == ConsolePort::kSerial) on_console(bytes);
  });
  machine_.frames().set_receiver([this](std::span<const std::byte> bytes) { on_frames(bytes); });
  machine_.set_event_receiver([this](const MachineEvent& event) { on_machine_event(event); });
  status_.event(fmt::format("starting {} ({})", plan_.kernel().release(), machine_.kind()));
  start_ = std::chrono::steady_clock::now();
  if (auto started = machine_.start(); !started) return started;
  arm_tick();
  while (!over_) loop_.run_one();
  tick_.cancel();
  machine_.stop();
  console_.finish();
  session_.finish();
  milestones_.end = since_start();
  return {};
}

void Attempt::on_console(std::span<const std::byte> bytes) {
  progress_ += bytes.size();
  if (milestones_.first_console == 0ns) milestones_.first_console = since_start();
  logs_.console.append(bytes);
  console_.feed(bytes);
  look_for_death();
}

void Attempt::on_frames(std::span<const std::byte> bytes) {
  progress_ += bytes.size();
  frame_bytes_ += bytes.size();
  session_.feed(bytes);
  note_milestones();
  // The guest waits for this after Bye: powering off by itself could lose its last frames.
  if (session_.phase() == Session::Phase::kBye) end_machine();
}

void Attempt::note_milestones() {
  const auto stamp = [this](std::chrono::nanoseconds& when, bool happened) {
    if (when == 0ns && happened) when = since_start();
  };
  stamp(milestones_.hello, session_.phase() >= Session::Phase::kPlanSent);
  stamp(milestones_.scheduler_started, session_.scheduler_state().has_value());
  stamp(milestones_.scenario_start, session_.scenario_start_ns() != 0);
  stamp(milestones_.scenario_end, session_.scenario_end_ns() != 0);
}

void Attempt::send_plan() {
  ktstr::v1::Frame frame;
  *frame.mutable_start_plan()->mutable_plan() = plan_;
  if (auto sent = machine_.frames().send(encoder_.encode(frame.SerializeAsString())); !sent) {
    on_machine_event({MachineEvent::Kind::kDied, sent.error().to_string()});
  }
}

void Attempt::on_machine_event(const MachineEvent& event) {
  if (over_) return;
  machine_end_ = event;
  over_ = true;
}

// A kernel that oopsed or panicked says more on the console than its first line; give it a moment, then end
// it.
void Attempt::look_for_death() {
  if ((console_.panic() || console_.oops()) && !axe_at_) axe_at_ = since_start() + kDeathGrace;
}

void Attempt::look_for_stuck_frame() {
  if (seen_frame_bytes_ != frame_bytes_) {
    seen_frame_bytes_ = frame_bytes_;
    frames_quiet_since_ = guard_.machine_time();
  } else if (guard_.machine_time() - frames_quiet_since_ > kStuckFrame) {
    session_.give_up_incomplete();
  }
}

void Attempt::interrupt(const std::string& signal_name) {
  if (!interrupted_by_.empty() || session_.phase() == Session::Phase::kBooting) {
    if (interrupted_by_.empty()) interrupted_by_ = signal_name;
    return end_machine();
  }
  interrupted_by_ = signal_name;
  status_.event(fmt::format("{}: stopping the guest (again to stop at once)", signal_name));
  ktstr::v1::Frame frame;
  frame.mutable_stop()->set_reason(signal_name);
  if (!machine_.frames().send(encoder_.encode(frame.SerializeAsString()))) return end_machine();
  axe_at_ = since_start() + kStopGrace;
}

void Attempt::end_machine() {
  over_ = true;
}

void Attempt::arm_tick() {
  tick_.expires_after(kTick);
  tick_.async_wait([this](const boost::system::error_code& error) {
    if (error || over_) return;
    on_tick();
    if (!over_) arm_tick();
  });
}

void Attempt::on_tick() {
  own_memory_ = std::max(own_memory_, own_memory_bytes());
  GuardSample sample;
  sample.host_time = since_start();
  sample.vcpu_waited = machine_.vcpu_time().waited;
  sample.progress = progress_;
  sample.phase = session_.phase();
  sample.guest_ns = session_.guest_ns();
  sample.plan_accepted_ns = session_.plan_accepted_ns();
  sample.scenario_start_ns = session_.scenario_start_ns();
  sample.scenario_end_ns = session_.scenario_end_ns();
  guard_trip_ = guard_.look(sample);
  look_for_stuck_frame();
  if (guard_trip_ || (axe_at_ && sample.host_time >= *axe_at_)) return end_machine();
  status_.update(session_.activity());
}

Evidence Attempt::evidence() const {
  return {.session = session_,
          .console = console_,
          .machine_end = machine_end_,
          .guard_trip = guard_trip_,
          .interrupted_by = interrupted_by_,
          .expected_build_id = plan_.kernel().build_id()};
}

}  // namespace ktstr
