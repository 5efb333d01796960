#include "host/run/attempt.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

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
// proto/frames.proto, CloneStart.
constexpr std::size_t kNonceBytes = 16;
constexpr std::size_t kSeedBytes = 32;

// At most 256, so that the kernel gives all of them at once (getrandom(2)).
std::string random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  while (::getrandom(bytes.data(), bytes.size(), 0) < 0 && errno == EINTR) {
  }
  return bytes;
}

}  // namespace

Attempt::Attempt(boost::asio::io_context& loop, Machine& machine, const ktstr::v1::RunPlan& plan,
                 const GuardLimits& limits, Logs& logs, StatusLine& status, bool verbose)
    : machine_(machine),
      plan_(plan),
      logs_(logs),
      status_(status),
      loop_(loop),
      tick_(loop),
      session_({.on_hello = [this] { on_hello(); },
                .on_waiting = [this](ktstr::v1::Waiting::For what) { on_waiting(what); },
                .on_file_progress =
                    [this](std::uint64_t bytes) {
                      if (!files_ || sent_ != Sent::kFiles) return;
                      files_->acknowledge(bytes);
                      send_files();
                    },
                .on_scheduler_output = [this](std::string_view text) { logs_.scheduler.append(text); },
                .on_event = [this](const std::string& text) { status_.event(text); }}),
      guard_(limits) {
  if (!verbose) return;
  console_.set_line_receiver([this](const std::string& line) { status_.event("console: " + line); });
  session_.set_note_receiver([this](const std::string& text) { status_.event("PID 1: " + text); });
}

void Attempt::set_files(const FileBundle& files) {
  files_.emplace(files, [this](const ktstr::v1::Frame& frame) -> Expected<void> {
    return machine_.frames().send(encoder_.encode(frame.SerializeAsString()));
  });
}

void Attempt::set_record(RunRecord& record) {
  record_ = &record;
  session_.set_frame_gate([this](std::string_view payload, const ktstr::v1::Frame& frame) {
    return admit_frame(payload, frame.guest_ns());
  });
}

// The limits of a deterministic run that count guest time are looked at with every frame, before it is taken:
// so a run that exceeds one ends at the same frame each time, whenever the host gets to see it.
bool Attempt::admit_frame(std::string_view payload, std::uint64_t guest_ns) {
  if (over_) return false;
  GuardSample now = guest_sample();
  now.guest_ns = std::max(now.guest_ns, guest_ns);
  guard_trip_ = guard_.look_at_guest_time(now);
  if (guard_trip_) {
    end_machine();
    return false;
  }
  record_->frame(payload);
  return true;
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
  if (freezer_ != nullptr) {
    if (auto begun = freezer_->begin(machine_); !begun) return begun;
  }
  if (is_clone()) {
    nonce_ = random_bytes(kNonceBytes);
    session_.expect_clone(nonce_, cloning_->facts());
  }
  if (auto started = machine_.start(); !started) return started;
  if (is_clone()) begin_clone();
  arm_tick();
  while (!over_) loop_.run_one();
  tick_.cancel();
  if (freezer_ != nullptr) freezer_->end();
  statistics_ = machine_.statistics();
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
  if (record_ != nullptr) record_->console(bytes);
  console_.feed(bytes);
  look_for_death();
}

void Attempt::on_frames(std::span<const std::byte> bytes) {
  progress_ += bytes.size();
  frame_bytes_ += bytes.size();
  session_.feed(bytes);
  note_milestones();
  // The guest waits for this after Bye: powering off by itself could lose its last frames.
  if (session_.phase() == Session::Phase::kBye && machine_.frames().can_send()) end_machine();
}

void Attempt::note_milestones() {
  const auto stamp = [this](std::chrono::nanoseconds& when, bool happened) {
    if (when == 0ns && happened) when = since_start();
  };
  const bool first_hello = milestones_.hello == 0ns;
  stamp(milestones_.hello, session_.phase() >= Session::Phase::kPlanSent);
  if (first_hello && milestones_.hello != 0ns) statistics_at_hello_ = machine_.statistics();
  stamp(milestones_.plan_accepted, session_.plan_accepted_ns() != 0);
  stamp(milestones_.scheduler_started, session_.scheduler_state().has_value());
  stamp(milestones_.scenario_start, session_.scenario_start_ns() != 0);
  stamp(milestones_.scenario_end, session_.scenario_end_ns() != 0);
}

// Everything it needs is known: it is sent at once, and the guest takes it in this order.
void Attempt::begin_clone() {
  if (freezer_ != nullptr) freezer_->on_hello(cloning_->facts());
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  ktstr::v1::Frame frame;
  auto& start = *frame.mutable_clone_start();
  start.set_nonce(nonce_);
  start.set_random_seed(random_bytes(kSeedBytes));
  start.set_realtime_ns(static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
                        static_cast<std::uint64_t>(now.tv_nsec));
  send(frame);
  if (cloning_->point() == SnapshotPoint::kHello) return send_files();
  send_plan(false);
}

void Attempt::on_hello() {
  if (is_clone()) return;  // it has all it needs
  if (freezer_ != nullptr) freezer_->on_hello(session_.guest().facts());
  if (!machine_.frames().can_send()) return;  // the guest has its plan already
  // One that is to be kept is not disturbed before it is at rest.
  if (!keeps(SnapshotPoint::kHello)) send_files();
}

void Attempt::on_waiting(ktstr::v1::Waiting::For what) {
  if (over_ || is_clone()) return;
  if (what == ktstr::v1::Waiting::PLAN && sent_ == Sent::kNothing) {
    if (save(SnapshotPoint::kHello)) send_files();
  } else if (what == ktstr::v1::Waiting::SCENARIO && sent_ == Sent::kHold) {
    if (save(SnapshotPoint::kAttached)) send_plan(false);
  }
}

bool Attempt::keeps(SnapshotPoint point) const {
  return cloning_ != nullptr && cloning_->keeps(point);
}

// False: the guest does not go on.
bool Attempt::save(SnapshotPoint point) {
  if (!keeps(point)) return true;
  status_.update("keeping the guest");
  const auto saved = cloning_->save(
      point, machine_,
      {.facts = session_.guest().facts(), .monotonic_ns = session_.guest_ns(), .run_id = plan_.run_id()});
  if (!saved) on_machine_event({MachineEvent::Kind::kDied, saved.error().to_string()});
  return saved.has_value();
}

void Attempt::send_files() {
  sent_ = Sent::kFiles;
  if (files_) {
    if (auto sent = files_->pump(); !sent)
      return on_machine_event({MachineEvent::Kind::kDied, sent.error().to_string()});
    if (!files_->done()) return;
  }
  send_plan(keeps(SnapshotPoint::kAttached));
}

void Attempt::send_plan(bool hold) {
  sent_ = hold ? Sent::kHold : Sent::kPlan;
  ktstr::v1::Frame frame;
  *frame.mutable_start_plan()->mutable_plan() = plan_;
  frame.mutable_start_plan()->set_hold(hold);
  send(frame);
}

void Attempt::send(const ktstr::v1::Frame& frame) {
  if (auto sent = machine_.frames().send(encoder_.encode(frame.SerializeAsString())); !sent)
    on_machine_event({MachineEvent::Kind::kDied, sent.error().to_string()});
}

void Attempt::on_machine_event(const MachineEvent& event) {
  if (over_) return;
  if (event.kind == MachineEvent::Kind::kTrapped) {
    if (freezer_ == nullptr || !freezer_->on_trap(machine_, event)) end_machine();
    return;
  }
  machine_end_ = event;
  over_ = true;
}

// A kernel that oopsed or panicked says more on the console than its first line; give it a moment, then end
// it.
void Attempt::look_for_death() {
  if ((console_.panic() || console_.oops()) && !axe_at_) axe_at_ = guard_.machine_time() + kDeathGrace;
}

void Attempt::look_for_stuck_frame() {
  // A debug port cannot damage a frame, and what is decoded must not depend on when the host looks.
  if (record_ != nullptr) return;
  if (seen_frame_bytes_ != frame_bytes_) {
    seen_frame_bytes_ = frame_bytes_;
    frames_quiet_since_ = guard_.machine_time();
  } else if (guard_.machine_time() - frames_quiet_since_ > kStuckFrame) {
    session_.give_up_incomplete();
  }
}

void Attempt::request_dump(const std::string& reason) {
  if (freezer_ != nullptr && !over_) freezer_->dump(reason);
}

void Attempt::interrupt(const std::string& signal_name) {
  const bool reachable = session_.phase() != Session::Phase::kBooting && machine_.frames().can_send();
  if (!interrupted_by_.empty() || !reachable) {
    if (interrupted_by_.empty()) interrupted_by_ = signal_name;
    if (record_ != nullptr) record_->disturbed("ended by " + signal_name);
    return end_machine();
  }
  interrupted_by_ = signal_name;
  status_.event(fmt::format("{}: stopping the guest (again to stop at once)", signal_name));
  ktstr::v1::Frame frame;
  frame.mutable_stop()->set_reason(signal_name);
  if (!machine_.frames().send(encoder_.encode(frame.SerializeAsString()))) return end_machine();
  axe_at_ = guard_.machine_time() + kStopGrace;
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
  guard_trip_ = guard_.look(sample());
  look_for_stuck_frame();
  const bool axed = axe_at_ && guard_.machine_time() >= *axe_at_;
  if (record_ != nullptr && guard_trip_) record_->disturbed("ended by the host: " + guard_trip_->text);
  if (record_ != nullptr && axed) record_->disturbed("ended by the host after a kernel panic");
  if (guard_trip_ || axed) {
    const bool died = console_.panic() || console_.oops();
    if (freezer_ != nullptr && (guard_trip_ || died))
      freezer_->dump_at_end(guard_trip_ ? "time-out" : "kernel panic");
    return end_machine();
  }
  status_.update(session_.activity());
}

GuardSample Attempt::sample() const {
  const Machine::VcpuTime vcpus = machine_.vcpu_time();
  GuardSample sample = guest_sample();
  sample.real_time = since_start();
  sample.stood_still = freezer_ != nullptr ? freezer_->stood_still() : 0ns;
  if (cloning_ != nullptr) sample.stood_still += cloning_->stood_still();
  sample.vcpu_active = vcpus.used + vcpus.waited;
  sample.host_time_is_cpu_time = record_ != nullptr;
  sample.host_time = record_ != nullptr ? vcpus.used : sample.real_time;
  sample.vcpu_waited = record_ != nullptr ? 0ns : vcpus.waited;
  return sample;
}

GuardSample Attempt::guest_sample() const {
  GuardSample sample;
  sample.progress = progress_;
  sample.phase = session_.phase();
  sample.guest_ns = session_.guest_ns();
  sample.plan_accepted_ns = session_.plan_accepted_ns();
  sample.scenario_start_ns = session_.scenario_start_ns();
  sample.scenario_end_ns = session_.scenario_end_ns();
  return sample;
}

Evidence Attempt::evidence() const {
  return {.session = session_,
          .console = console_,
          .machine_end = machine_end_,
          .guard_trip = guard_trip_,
          .interrupted_by = interrupted_by_,
          .expected_build_id = plan_.kernel().build_id(),
          .emulated = !machine_.emulator().path.empty(),
          .stopped_at_freeze = freezer_ != nullptr ? freezer_->stopped_by() : std::string()};
}

}  // namespace ktstr
