// Session: the host's side of the conversation with PID 1. It turns the byte stream into the guest's section
// of the result and knows how far the guest has come. Order of frames and what may be missing:
// proto/frames.proto.
//
// Frames are hostile input. A session accepts any frame at any time, keeps a bounded amount of what comes,
// and never believes a frame more than the machine: a guest that says Bye and goes on running is still
// switched off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/frame_codec.h"
#include "proto/frames.pb.h"
#include "proto/result.pb.h"

namespace ktstr {

class Session {
 public:
  // How far the guest has come.
  enum class Phase {
    kBooting,    // no Hello yet
    kPlanSent,   // Hello came; waiting for the plan to be accepted
    kAttaching,  // the scheduler is being started
    kScenario,   // ScenarioStart came
    kFinishing,  // ScenarioEnd or GuestResult came
    kBye,        // the last frame came
  };

  struct Callbacks {
    // Hello came, or a clone has said that it is one: time to send the plan.
    std::function<void()> on_hello;
    // The guest has nothing to do without us.
    std::function<void(ktstr::v1::Waiting::For)> on_waiting;
    // Bytes of files that the guest has taken.
    std::function<void(std::uint64_t)> on_file_progress;
    // Output of the scheduler, raw.
    std::function<void(std::string_view)> on_scheduler_output;
    // Something happened that a person may want to see, one line.
    std::function<void(const std::string&)> on_event;
  };

  // Sees every good frame before it is taken; false: this frame and all behind it are left out.
  using FrameGate = std::function<bool(std::string_view payload, const ktstr::v1::Frame& frame)>;

  explicit Session(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}

  // Who gets PID 1's remarks, one line each; for --verbose.
  void set_note_receiver(std::function<void(const std::string&)> receiver) { on_note_ = std::move(receiver); }
  void set_frame_gate(FrameGate gate) { gate_ = std::move(gate); }
  // The guest is a clone that will answer with `nonce`; whatever comes before that is not its own and left
  // out, but for the crash of its PID 1. `facts` are what the guest that was kept said of itself. Call before
  // the first feed().
  void expect_clone(std::string nonce, const ktstr::v1::GuestFacts& facts);
  void feed(std::span<const std::byte> bytes);
  // The stream has been quiet for so long that the rest of a frame will not come: its length was damaged, and
  // good frames may lie behind it.
  void give_up_incomplete();
  // No more bytes will come.
  void finish();

  Phase phase() const { return phase_; }
  // What the guest says it is doing: "attaching", "step 1/3".
  const std::string& activity() const { return activity_; }
  // Guest CLOCK_MONOTONIC of the newest frame, ns; and of ScenarioStart / ScenarioEnd, 0 before they came.
  std::uint64_t guest_ns() const { return guest_ns_; }
  std::uint64_t scenario_start_ns() const { return scenario_start_ns_; }
  std::uint64_t scenario_end_ns() const { return scenario_end_ns_; }
  std::uint64_t plan_accepted_ns() const { return plan_accepted_ns_; }

  const ktstr::v1::GuestSection& guest() const { return guest_; }
  const std::optional<ktstr::v1::GuestResult>& guest_result() const { return guest_result_; }
  const std::optional<ktstr::v1::InitCrash>& init_crash() const { return init_crash_; }
  const std::string& plan_refused() const { return plan_refused_; }
  // The last state of the scheduler that was reported.
  const std::optional<ktstr::v1::SchedulerUpdate>& scheduler_state() const { return scheduler_state_; }
  // Sum of work done by all workers, from heartbeats.
  std::uint64_t iterations() const { return iterations_; }
  // What Bye said was sent, minus what arrived; 0 before Bye.
  std::uint64_t missing_at_bye() const { return missing_at_bye_; }
  ktstr::v1::FrameStats stats() const;
  // Payloads that were framed well but did not parse as a Frame.
  std::uint64_t unparsable() const { return unparsable_; }

 private:
  void take(const ktstr::v1::Frame& frame);
  // Whether the frame is this guest's.
  bool is_own(const ktstr::v1::Frame& frame);
  void take_hello(const ktstr::v1::Hello& hello);
  void take_clone_ready();
  void take_scheduler(const ktstr::v1::SchedulerUpdate& update);
  void take_report(const ktstr::v1::StepReport& report);
  void take_note(const ktstr::v1::Note& note);
  void advance(Phase phase) { phase_ = phase > phase_ ? phase : phase_; }
  void event(const std::string& text) const;

  Callbacks callbacks_;
  std::function<void(const std::string&)> on_note_;
  FrameGate gate_;
  bool closed_ = false;  // by the gate
  FrameDecoder decoder_;
  std::string nonce_;           // of a clone that has not answered yet
  FrameDecoder::Stats before_;  // what the decoder had seen before a clone's first frame
  Phase phase_ = Phase::kBooting;
  std::string activity_ = "booting";
  std::uint64_t guest_ns_ = 0;
  std::uint64_t plan_accepted_ns_ = 0;
  std::uint64_t scenario_start_ns_ = 0;
  std::uint64_t scenario_end_ns_ = 0;
  std::uint64_t iterations_ = 0;
  std::uint64_t missing_at_bye_ = 0;
  std::uint64_t unparsable_ = 0;
  std::size_t kept_bytes_ = 0;
  ktstr::v1::GuestSection guest_;
  std::optional<ktstr::v1::GuestResult> guest_result_;
  std::optional<ktstr::v1::InitCrash> init_crash_;
  std::optional<ktstr::v1::SchedulerUpdate> scheduler_state_;
  std::string plan_refused_;
};

}  // namespace ktstr
