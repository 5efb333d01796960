// Attempt: one execution of a plan on one machine, from start to the machine's end.
//
// The flow on the event loop:
//   machine.start -> console bytes -> ConsoleScanner, console.log
//                 -> frame bytes   -> Session -> (Hello: send files and plan) ... (Bye)
//                 -> timer         -> Guard, status line
//                 -> signals       -> Stop frame, grace, then the axe
//                 -> machine event -> end
// It ends when the machine has ended, whoever ended it. What it came to is for the Judge.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include "host/machine/machine.h"
#include "host/report/status_line.h"
#include "host/run/cloning.h"
#include "host/run/console_scanner.h"
#include "host/run/file_sender.h"
#include "host/run/freezer.h"
#include "host/run/guard.h"
#include "host/run/judge.h"
#include "host/run/run_folder.h"
#include "host/run/run_record.h"
#include "host/run/session.h"
#include "proto/plan.pb.h"

namespace ktstr {

class Attempt {
 public:
  struct Logs {
    BoundedLog console;
    BoundedLog scheduler;
  };
  // Host times since machine.start, ns; 0: did not happen.
  struct Milestones {
    std::chrono::nanoseconds first_console{};
    std::chrono::nanoseconds hello{};  // or a clone's first frame
    std::chrono::nanoseconds plan_accepted{};
    std::chrono::nanoseconds scheduler_started{};
    std::chrono::nanoseconds scenario_start{};
    std::chrono::nanoseconds scenario_end{};
    std::chrono::nanoseconds end{};
  };

  // All references must outlive the Attempt. `verbose` shows the console and PID 1's remarks.
  Attempt(boost::asio::io_context& loop, Machine& machine, const ktstr::v1::RunPlan& plan,
          const GuardLimits& limits, Logs& logs, StatusLine& status, bool verbose);
  // The run is deterministic, and this is where its frames go. Call before run().
  void set_record(RunRecord& record);
  // Who takes dumps of this run. Call before run().
  void set_freezer(Freezer& freezer) { freezer_ = &freezer; }
  // The guest is a clone, or one that is kept. Call before run().
  void set_cloning(Cloning& cloning) { cloning_ = &cloning; }
  // What the guest gets before its plan; must outlive the Attempt. Call before run().
  void set_files(const FileBundle& files);
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  // Runs to the machine's end. Errors: the machine could not be started.
  Expected<void> run();

  // The user's SIGINT or SIGTERM: asks the guest for an orderly end; the second one, or no answer within the
  // grace period, ends the machine.
  void interrupt(const std::string& signal_name);

  // The user wants a dump of the running guest.
  void request_dump(const std::string& reason);

  Evidence evidence() const;
  const Session& session() const { return session_; }
  const Milestones& milestones() const { return milestones_; }
  // Largest resident memory of this process without guest RAM, bytes.
  std::uint64_t own_memory() const { return own_memory_; }
  // At the end of the run, and what it was when Hello came.
  const MachineStatistics& statistics() const { return statistics_; }
  const MachineStatistics& statistics_at_hello() const { return statistics_at_hello_; }

 private:
  void on_console(std::span<const std::byte> bytes);
  void on_frames(std::span<const std::byte> bytes);
  void on_machine_event(const MachineEvent& event);
  void on_tick();
  GuardSample sample() const;
  // The part of it that comes from the guest.
  GuardSample guest_sample() const;
  bool admit_frame(std::string_view payload, std::uint64_t guest_ns);
  void arm_tick();
  void begin_clone();
  void on_hello();
  void on_waiting(ktstr::v1::Waiting::For what);
  bool keeps(SnapshotPoint point) const;
  bool save(SnapshotPoint point);
  void send_files();
  void send_plan(bool hold);
  void send(const ktstr::v1::Frame& frame);
  bool is_clone() const { return cloning_ != nullptr && cloning_->is_clone(); }
  void look_for_death();
  void look_for_stuck_frame();
  void note_milestones();
  void end_machine();
  std::chrono::nanoseconds since_start() const;

  Machine& machine_;
  const ktstr::v1::RunPlan& plan_;
  Logs& logs_;
  RunRecord* record_ = nullptr;  // of a deterministic run
  Freezer* freezer_ = nullptr;
  Cloning* cloning_ = nullptr;
  std::optional<FileSender> files_;
  // What has been sent: files are on their way, the plan, the plan for a guest that holds.
  enum class Sent { kNothing, kFiles, kPlan, kHold };
  Sent sent_ = Sent::kNothing;
  StatusLine& status_;
  boost::asio::io_context& loop_;
  boost::asio::steady_timer tick_;
  Session session_;
  ConsoleScanner console_;
  Guard guard_;
  FrameEncoder encoder_;
  std::string nonce_;  // of a clone
  std::chrono::steady_clock::time_point start_;
  Milestones milestones_;
  MachineStatistics statistics_;
  MachineStatistics statistics_at_hello_;
  std::uint64_t progress_ = 0;
  std::uint64_t frame_bytes_ = 0;
  // Frame bytes at the last tick, and the machine time when they last grew.
  std::uint64_t seen_frame_bytes_ = 0;
  std::chrono::nanoseconds frames_quiet_since_{};
  std::uint64_t own_memory_ = 0;
  bool over_ = false;
  std::optional<MachineEvent> machine_end_;
  std::optional<GuardTrip> guard_trip_;
  std::string interrupted_by_;
  std::optional<std::chrono::nanoseconds> axe_at_;
};

}  // namespace ktstr
