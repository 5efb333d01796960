#include "guest/init/init_supervisor.h"

#include <poll.h>
#include <sys/epoll.h>

#include <utility>

#include "common/quote.h"

namespace ktstr::guest {
namespace {

using namespace std::chrono_literals;

constexpr auto kHeartbeatInterval = 1s;
// How long a congested port may hold up whoever sends: the host gets this long to catch up.
constexpr auto kBackPressure = 5s;
// So that a host that sends without end does not starve the rest.
constexpr int kReadsPerTurn = 64;
// A host end that is closed is looked at this often, and taken for gone after the longer time.
constexpr auto kHangupRetry = 100ms;
constexpr auto kHangupLimit = 10s;

}  // namespace

Expected<std::unique_ptr<InitSupervisor>> InitSupervisor::create(FramePort port, CloneActions actions,
                                                                 FileReceiver files) {
  Expected<EventLoop> loop = EventLoop::create();
  if (!loop) return std::unexpected(std::move(loop.error()));
  Expected<ChildReaper> reaper = ChildReaper::create();
  if (!reaper) return std::unexpected(std::move(reaper.error()));
  std::unique_ptr<InitSupervisor> supervisor(new InitSupervisor(
      std::move(*loop), std::move(*reaper), std::move(port), std::move(actions), std::move(files)));
  if (Expected<> started = supervisor->start(); !started) return std::unexpected(std::move(started.error()));
  return supervisor;
}

Expected<> InitSupervisor::start() {
  Expected<> watched = loop_.watch(reaper_.fd(), EPOLLIN, [this](std::uint32_t) { reaper_.on_signal(); });
  if (!watched) return watched;
  loop_.add_timer(monotonic_now() + kHeartbeatInterval, kHeartbeatInterval, [this] { heartbeat(); });
  return watch_port();
}

Expected<> InitSupervisor::watch_port() {
  if (port_.one_way()) return {};
  port_wants_write_ = port_.wants_write();
  return loop_.watch(port_.fd(), port_wants_write_ ? EPOLLIN | EPOLLOUT : EPOLLIN,
                     [this](std::uint32_t events) { on_port(events); });
}

void InitSupervisor::update_port_watch() {
  if (port_.one_way() || port_.wants_write() == port_wants_write_) return;
  port_wants_write_ = port_.wants_write();
  loop_.change(port_.fd(), port_wants_write_ ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void InitSupervisor::on_port(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) port_.flush();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    // The port gives one page at a time; files come in many.
    auto result = FramePort::ReadResult::kData;
    for (int reads = 0; reads < kReadsPerTurn && result == FramePort::ReadResult::kData; ++reads) {
      result = port_.read();
      while (const std::optional<std::string> payload = port_.next_payload()) handle_payload(*payload);
    }
    if (result == FramePort::ReadResult::kHangup) {
      on_hangup();
      return;
    }
  }
  hangup_since_.reset();
  update_port_watch();
}

// A closed host end is "readable" for ever; it is left alone for a moment, and given up after a while.
void InitSupervisor::on_hangup() {
  const MonotonicTime now = monotonic_now();
  if (!hangup_since_) hangup_since_ = now;
  loop_.unwatch(port_.fd());
  if (now - *hangup_since_ >= kHangupLimit) {
    if (!stop_reason_) stop_reason_ = "the host has closed the frame port";
    return;
  }
  loop_.add_timer(now + kHangupRetry, 0s, [this] {
    pollfd entry{.fd = port_.fd(), .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, 0) >= 0 && (entry.revents & POLLHUP) == 0) hangup_since_.reset();
    if (Expected<> watched = watch_port(); !watched) stop_reason_ = watched.error().to_string();
  });
}

void InitSupervisor::handle_payload(const std::string& payload) {
  ktstr::v1::Frame frame;
  if (!frame.ParseFromString(payload)) {
    warn("a frame of the host (" + std::to_string(payload.size()) + " bytes) cannot be parsed");
    return;
  }
  handle(std::move(frame));
}

void InitSupervisor::handle(ktstr::v1::Frame frame) {
  if (frame.has_stop()) {
    if (!stop_reason_) stop_reason_ = frame.stop().reason().substr(0, 200);
    return;
  }
  const bool to_begin =
      frame.has_start_plan() || frame.has_clone_start() || frame.has_file() || frame.has_file_data();
  if (!to_begin) {
    warn("the host has sent a frame that is not for guests (body " + std::to_string(frame.body_case()) + ")");
  } else if (!awaits_plan_) {
    // Files have come in many frames; one sentence will do.
    if (!frame.has_file_data()) warn("the host has sent a plan or what goes with it, and none is awaited");
  } else if (frame.has_start_plan()) {
    awaits_plan_ = false;
    plan_ = std::move(*frame.mutable_start_plan());
  } else if (frame.has_clone_start()) {
    start_clone(frame.clone_start());
  } else if (frame.has_file()) {
    files_.begin(frame.file());
  } else {
    take_file_data(frame.file_data());
  }
}

// Whatever is sent from now on is of this guest and no other.
void InitSupervisor::start_clone(const ktstr::v1::CloneStart& start) {
  if (const std::string refused = refuse_clone(start); !refused.empty())
    return warn("the host's start of a clone is ignored: " + refused);
  std::vector<std::string> warnings;
  become_clone(start, clone_actions_, warnings);
  files_.restart();
  port_.restart();
  ktstr::v1::Frame answer;
  answer.mutable_clone_ready()->set_nonce(start.nonce());
  send(std::move(answer));
  for (std::string& warning : warnings) warn(std::move(warning));
}

void InitSupervisor::take_file_data(const ktstr::v1::FileData& data) {
  files_.data(data);
  ktstr::v1::Frame answer;
  answer.mutable_file_progress()->set_bytes(files_.received());
  send(std::move(answer));
}

void InitSupervisor::heartbeat() {
  ktstr::v1::Frame frame;
  ktstr::v1::Heartbeat& heartbeat = *frame.mutable_heartbeat();
  heartbeat.set_phase(phase_);
  if (scheduler_cpu_) heartbeat.set_scheduler_cpu_ns(static_cast<std::uint64_t>(scheduler_cpu_().count()));
  if (iterations_) heartbeat.set_iterations(iterations_());
  send(std::move(frame));
}

Supervisor::Wake InitSupervisor::wait_until(MonotonicTime deadline, int fd, bool ignore_end) {
  bool readable = false;
  if (fd >= 0) {
    // A regular file cannot be waited for and is always readable.
    if (!loop_.watch(fd, EPOLLIN, [&readable](std::uint32_t) { readable = true; })) return Wake::kReadable;
  }
  // A deadline that has passed still serves what is pending, once: callers that poll must not starve the
  // loop.
  bool served = false;
  Wake wake = Wake::kDeadline;
  while (true) {
    if (!ignore_end && scheduler_gone_) {
      wake = Wake::kSchedulerGone;
    } else if (!ignore_end && stop_reason_) {
      wake = Wake::kStopRequested;
    } else if (readable) {
      wake = Wake::kReadable;
    } else if (!served || monotonic_now() < deadline) {
      loop_.run_once(deadline);
      served = true;
      continue;
    }
    break;
  }
  if (fd >= 0) loop_.unwatch(fd);
  return wake;
}

void InitSupervisor::send(ktstr::v1::Frame frame) {
  const bool scenario_start = frame.has_scenario_start();
  port_.send(std::move(frame));
  if (port_.congested()) port_.drain(kBackPressure);
  update_port_watch();
  if (scenario_start && on_scenario_start_) std::exchange(on_scenario_start_, {})();
}

void InitSupervisor::forget_child(int pid) {
  reaper_.forget(pid);
  reaper_.reap();
}

void InitSupervisor::note(std::string text) {
  ktstr::v1::Frame frame;
  frame.mutable_note()->set_level(ktstr::v1::Note::INFO);
  frame.mutable_note()->set_text(std::move(text));
  send(std::move(frame));
}

void InitSupervisor::warn(std::string text) {
  if (warnings_.size() >= kMaxWarnings) return;
  warnings_.push_back(text);
  ktstr::v1::Frame frame;
  frame.mutable_note()->set_level(ktstr::v1::Note::WARNING);
  frame.mutable_note()->set_text(std::move(text));
  send(std::move(frame));
}

void InitSupervisor::await_plan(ktstr::v1::Waiting::For what) {
  awaits_plan_ = true;
  ktstr::v1::Frame frame;
  frame.mutable_waiting()->set_what(what);
  send(std::move(frame));
}

std::optional<ktstr::v1::StartPlan> InitSupervisor::take_plan() {
  return std::exchange(plan_, std::nullopt);
}

void InitSupervisor::say_goodbye(std::chrono::nanoseconds limit) {
  if (port_.results_dropped() > 0) {
    warn(std::to_string(port_.results_dropped()) +
         " frames with results were lost: the host did not take them in time");
  }
  if (port_.output_dropped() > 0) {
    note(std::to_string(port_.output_dropped()) + " bytes of the scheduler's output were dropped at the end");
  }
  if (!port_.drain(limit)) return;  // nobody reads: there is nothing to say goodbye to
  ktstr::v1::Frame frame;
  frame.mutable_bye()->set_frames(port_.frames_sent());
  port_.send_last(std::move(frame), limit);
}

}  // namespace ktstr::guest
