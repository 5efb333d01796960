#include "host/run/session.h"

#include <algorithm>

#include <fmt/format.h>

#include "host/run/console_scanner.h"

namespace ktstr {
namespace {

using ktstr::v1::Frame;

// Bounds of what one guest can make us keep.
constexpr std::size_t kMaxKeptBytes = std::size_t{128} << 20;
constexpr int kMaxSteps = 10'000;
constexpr int kMaxWarnings = 200;
constexpr std::size_t kMaxText = 400;

std::string cut(const std::string& text) {
  std::string clean = printable(text);
  if (clean.size() > kMaxText) clean.resize(kMaxText);
  return clean;
}

// A cgroup with many workers comes in several frames; they are one cgroup in the result.
void merge_cgroup(const ktstr::v1::CgroupResult& part,
                  google::protobuf::RepeatedPtrField<ktstr::v1::CgroupResult>& all) {
  for (ktstr::v1::CgroupResult& known : all) {
    if (known.cgroup() == part.cgroup()) return known.mutable_workers()->MergeFrom(part.workers());
  }
  *all.Add() = part;
}

}  // namespace

void Session::event(const std::string& text) const {
  if (callbacks_.on_event) callbacks_.on_event(text);
}

void Session::feed(std::span<const std::byte> bytes) {
  decoder_.feed(bytes);
  while (auto payload = closed_ ? std::nullopt : decoder_.next()) {
    Frame frame;
    const bool good = frame.ParseFromString(*payload);
    if (gate_ && !gate_(*payload, frame)) {
      closed_ = true;
    } else if (good) {
      if (is_own(frame)) take(frame);
    } else if (nonce_.empty()) {
      ++unparsable_;
    }
  }
}

void Session::give_up_incomplete() {
  if (decoder_.pending() == 0) return;
  decoder_.give_up();
  feed({});
}

void Session::finish() {
  decoder_.finish();
  feed({});
}

ktstr::v1::FrameStats Session::stats() const {
  const FrameDecoder::Stats& seen = decoder_.stats();
  ktstr::v1::FrameStats stats;
  stats.set_frames(seen.frames - before_.frames);
  stats.set_bytes(seen.bytes);
  // A gap at the end shows only in what Bye says.
  stats.set_lost(std::max(seen.lost - before_.lost, missing_at_bye_) + unparsable_);
  stats.set_resyncs(seen.resyncs - before_.resyncs);
  stats.set_skipped_bytes(seen.skipped_bytes - before_.skipped_bytes);
  stats.set_breaks(seen.breaks - before_.breaks);
  return stats;
}

void Session::expect_clone(std::string nonce, const ktstr::v1::GuestFacts& facts) {
  nonce_ = std::move(nonce);
  *guest_.mutable_facts() = facts;
}

bool Session::is_own(const Frame& frame) {
  if (nonce_.empty() || frame.has_init_crash()) return true;
  if (!frame.has_clone_ready() || frame.clone_ready().nonce() != nonce_) return false;
  nonce_.clear();
  // Its number is 0 again, which is no break; and what the other guest had left half written is nobody's
  // loss.
  before_ = decoder_.stats();
  --before_.frames;
  return true;
}

void Session::take(const Frame& frame) {
  guest_ns_ = std::max<std::uint64_t>(guest_ns_, frame.guest_ns());
  switch (frame.body_case()) {
    case Frame::kHello:
      take_hello(frame.hello());
      break;
    case Frame::kPlanAccepted:
      plan_refused_ = cut(frame.plan_accepted().refused());
      if (plan_accepted_ns_ == 0 && plan_refused_.empty()) event("plan accepted");
      plan_accepted_ns_ = frame.guest_ns();
      break;
    case Frame::kScheduler:
      take_scheduler(frame.scheduler());
      break;
    case Frame::kScenarioStart:
      advance(Phase::kScenario);
      scenario_start_ns_ = frame.guest_ns();
      break;
    case Frame::kStepStart:
      activity_ = cut(frame.step_start().name());
      event(fmt::format("step '{}': {} workers, holding {:.2f} s", activity_, frame.step_start().workers(),
                        static_cast<double>(frame.step_start().hold_ns()) / 1e9));
      break;
    case Frame::kStepEnd:
      iterations_ = std::max<std::uint64_t>(iterations_, frame.step_end().iterations());
      break;
    case Frame::kStepReport:
      take_report(frame.step_report());
      break;
    case Frame::kScenarioEnd:
      advance(Phase::kFinishing);
      scenario_end_ns_ = frame.guest_ns();
      activity_ = "finishing";
      break;
    case Frame::kResult:
      advance(Phase::kFinishing);
      guest_result_ = frame.result();
      *guest_.mutable_scheduler() = frame.result().scheduler();
      for (const std::string& warning : frame.result().warnings()) {
        if (guest_.warnings_size() < kMaxWarnings) guest_.add_warnings(cut(warning));
      }
      break;
    case Frame::kBye:
      advance(Phase::kBye);
      // Bye itself is already counted among the decoded frames.
      if (const std::uint64_t seen = decoder_.stats().frames - before_.frames;
          frame.bye().frames() + 1 > seen)
        missing_at_bye_ = frame.bye().frames() + 1 - seen;
      break;
    case Frame::kOutput:
      if (callbacks_.on_scheduler_output) callbacks_.on_scheduler_output(frame.output().data());
      break;
    case Frame::kHeartbeat:
      if (!frame.heartbeat().phase().empty() && phase_ != Phase::kFinishing)
        activity_ = cut(frame.heartbeat().phase());
      iterations_ = std::max<std::uint64_t>(iterations_, frame.heartbeat().iterations());
      break;
    case Frame::kNote:
      take_note(frame.note());
      break;
    case Frame::kInitCrash:
      init_crash_ = frame.init_crash();
      break;
    case Frame::kWaiting:
      if (callbacks_.on_waiting) callbacks_.on_waiting(frame.waiting().what());
      break;
    case Frame::kFileProgress:
      if (callbacks_.on_file_progress) callbacks_.on_file_progress(frame.file_progress().bytes());
      break;
    case Frame::kCloneReady:
      take_clone_ready();
      break;
    case Frame::kStartPlan:
    case Frame::kStop:
    case Frame::kCloneStart:
    case Frame::kFile:
    case Frame::kFileData:
    case Frame::BODY_NOT_SET:
      // A guest has no business sending these; harmless.
      break;
  }
}

void Session::take_hello(const ktstr::v1::Hello& hello) {
  if (phase_ != Phase::kBooting) return;
  advance(Phase::kPlanSent);
  activity_ = "sending the plan";
  *guest_.mutable_facts() = hello.facts();
  event(fmt::format("guest is up: {}, {} CPUs", cut(hello.facts().kernel_release()),
                    hello.facts().cpus_online()));
  if (callbacks_.on_hello) callbacks_.on_hello();
}

// A guest that says so without being asked is harmless: this is its Hello.
void Session::take_clone_ready() {
  if (phase_ != Phase::kBooting) return;
  advance(Phase::kPlanSent);
  activity_ = "sending the plan";
  if (callbacks_.on_hello) callbacks_.on_hello();
}

void Session::take_scheduler(const ktstr::v1::SchedulerUpdate& update) {
  using Update = ktstr::v1::SchedulerUpdate;
  scheduler_state_ = update;
  switch (update.state()) {
    case Update::STARTING:
      advance(Phase::kAttaching);
      activity_ = "waiting for the scheduler to attach";
      break;
    case Update::ATTACHED:
      event(fmt::format("scheduler attached: {}", cut(update.ops())));
      break;
    case Update::FAILED:
      event("scheduler failed: " + cut(update.text()));
      break;
    case Update::DIED:
      event("scheduler died: " + cut(update.text()));
      break;
    default:
      break;
  }
}

void Session::take_report(const ktstr::v1::StepReport& report) {
  kept_bytes_ += report.ByteSizeLong();
  if (kept_bytes_ > kMaxKeptBytes) {
    if (guest_.warnings_size() < kMaxWarnings)
      guest_.add_warnings("worker reports beyond 128 MiB were dropped");
    return;
  }
  if (report.backdrop()) {
    merge_cgroup(report.cgroup(), *guest_.mutable_backdrop());
    return;
  }
  const int index = static_cast<int>(std::min<std::uint32_t>(report.index(), kMaxSteps));
  if (index >= kMaxSteps) return;
  while (guest_.steps_size() <= index) guest_.add_steps();
  ktstr::v1::StepResult* step = guest_.mutable_steps(index);
  if (report.has_step()) {
    // The step's own frame brings names and times; cgroups that already came are kept.
    ktstr::v1::StepResult times = report.step();
    times.clear_cgroups();
    step->MergeFrom(times);
  }
  if (report.has_cgroup()) merge_cgroup(report.cgroup(), *step->mutable_cgroups());
}

void Session::take_note(const ktstr::v1::Note& note) {
  const std::string text = cut(note.text());
  if (on_note_) on_note_(text);
  if (note.level() == ktstr::v1::Note::WARNING && guest_.warnings_size() < kMaxWarnings)
    guest_.add_warnings(text);
}

}  // namespace ktstr
