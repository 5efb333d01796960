// InitSupervisor: PID 1's loop as the scenario executor sees it (guest/scenario/supervisor.h), and its other
// half, which the life cycle uses: frames from the host, heartbeats, orphans, notes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guest/init/child_reaper.h"
#include "guest/init/clone_start.h"
#include "guest/init/event_loop.h"
#include "guest/init/file_receiver.h"
#include "guest/init/frame_port.h"
#include "guest/scenario/supervisor.h"

namespace ktstr::guest {

class InitSupervisor final : public Supervisor {
 public:
  static constexpr std::size_t kMaxWarnings = 200;

  // Takes the port; heartbeats begin at once. `actions` are what a clone does to its kernel, `files` takes
  // what the host sends.
  static Expected<std::unique_ptr<InitSupervisor>> create(FramePort port,
                                                          CloneActions actions = kernel_actions(),
                                                          FileReceiver files = FileReceiver());

  Wake wait_until(MonotonicTime deadline, int fd = -1, bool ignore_end = false) override;
  void send(ktstr::v1::Frame frame) override;
  void set_phase(std::string phase) override { phase_ = std::move(phase); }
  void set_iteration_source(std::function<std::uint64_t()> source) override {
    iterations_ = std::move(source);
  }
  void adopt_child(int pid) override { reaper_.adopt(pid); }
  void forget_child(int pid) override;

  EventLoop& loop() { return loop_; }
  FramePort& port() { return port_; }
  ChildReaper& reaper() { return reaper_; }

  // Sends a Note; a warning is also kept for the result.
  void note(std::string text);
  void warn(std::string text);
  const std::vector<std::string>& warnings() const { return warnings_; }

  // From now on the host may send files and a plan, and it is told so; a guest that is kept now is kept here.
  // Each call is for one plan.
  void await_plan(ktstr::v1::Waiting::For what);
  // The plan that was awaited, once the host has sent it; given out once.
  std::optional<ktstr::v1::StartPlan> take_plan();
  // Why the files that came before the plan are not in their places; "" when they are.
  std::string files_problem() const { return files_.problem(); }
  bool stop_requested() const { return stop_reason_.has_value(); }
  // Why the host wants the run to end; "" while it does not.
  std::string stop_reason() const { return stop_reason_.value_or(""); }

  // The scheduler under test has left: every wait that does not ignore the end says so from now on.
  void set_scheduler_gone() { scheduler_gone_ = true; }
  bool scheduler_gone() const { return scheduler_gone_; }
  // CPU time of the scheduler's process, for heartbeats; an empty function: none.
  void set_scheduler_cpu_source(std::function<std::chrono::nanoseconds()> source) {
    scheduler_cpu_ = std::move(source);
  }
  // Called once, when the scenario starts (its ScenarioStart frame passes).
  void on_scenario_start(std::function<void()> handler) { on_scenario_start_ = std::move(handler); }

  // Sends everything that waits, then Bye, and returns when the host has it or `limit` is over.
  void say_goodbye(std::chrono::nanoseconds limit);

 private:
  InitSupervisor(EventLoop loop, ChildReaper reaper, FramePort port, CloneActions actions, FileReceiver files)
      : loop_(std::move(loop)),
        reaper_(std::move(reaper)),
        port_(std::move(port)),
        clone_actions_(std::move(actions)),
        files_(std::move(files)) {}
  Expected<> start();
  Expected<> watch_port();
  void update_port_watch();
  void on_port(std::uint32_t events);
  void on_hangup();
  void handle_payload(const std::string& payload);
  void handle(ktstr::v1::Frame frame);
  void start_clone(const ktstr::v1::CloneStart& start);
  void take_file_data(const ktstr::v1::FileData& data);
  void heartbeat();

  EventLoop loop_;
  ChildReaper reaper_;
  FramePort port_;
  bool port_wants_write_ = false;
  std::optional<MonotonicTime> hangup_since_;

  std::string phase_ = "starting";
  std::function<std::uint64_t()> iterations_;
  std::function<std::chrono::nanoseconds()> scheduler_cpu_;
  std::function<void()> on_scenario_start_;
  CloneActions clone_actions_;
  FileReceiver files_;
  std::optional<ktstr::v1::StartPlan> plan_;
  bool awaits_plan_ = false;
  std::optional<std::string> stop_reason_;
  bool scheduler_gone_ = false;
  std::vector<std::string> warnings_;
};

}  // namespace ktstr::guest
