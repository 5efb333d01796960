#include "guest/scenario/scenario_run.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/scenario_check.h"
#include "guest/scenario/checks.h"
#include "guest/scenario/report_frames.h"

namespace ktstr::guest {
namespace {

using std::chrono::nanoseconds;

std::uint64_t count(nanoseconds time) {
  return static_cast<std::uint64_t>(std::max(time, nanoseconds(0)).count());
}

std::string seconds(nanoseconds time) {
  return fmt::format("{:.1f} s", static_cast<double>(count(time)) / 1e9);
}

constexpr const char* kKilledGone = "killed because the scheduler was gone";
constexpr const char* kKilledBroken = "killed because the step was given up";

}  // namespace

ScenarioRun::ScenarioRun(const ktstr::v1::Scenario& scenario, std::uint32_t cpus, CgroupOps& ops,
                         Supervisor& supervisor, std::uint64_t jitter_seed, WorkerGroup::Patience patience)
    : scenario_(scenario),
      ops_(ops),
      supervisor_(supervisor),
      surroundings_{ops, supervisor, cpus, scenario.seed(), jitter_seed, patience},
      duration_(scenario_duration(scenario)) {}

ScenarioRun::~ScenarioRun() {
  supervisor_.set_iteration_source({});
}

ScenarioOutcome ScenarioRun::run() {
  if (!valid()) return outcome_.build();
  Course course = set_up();
  if (course == Course::kGood) course = run_steps();
  finish_backdrop(course);
  if (auto removed = ops_.tear_down(); !removed) outcome_.warn(removed.error().to_string());
  return outcome_.build();
}

// The host has validated already; this is for plans that did not come from our host.
bool ScenarioRun::valid() {
  const std::uint32_t needed = scenario_.requirements().cpus();
  if (needed > surroundings_.cpus) {
    outcome_.add(ktstr::v1::KERNEL_LACKS, "cpus",
                 fmt::format("the scenario needs {} CPUs, {} are online", needed, surroundings_.cpus), "");
    return false;
  }
  const auto problems = check_scenario(scenario_, surroundings_.cpus);
  for (const ScenarioProblem& problem : problems) {
    outcome_.add(ktstr::v1::USAGE, "bad-scenario", to_string(problem), "");
  }
  return problems.empty();
}

ScenarioRun::Course ScenarioRun::set_up() {
  supervisor_.set_phase("setting up the scenario");
  if (auto made = ops_.set_up(required_controllers(scenario_)); !made) {
    outcome_.add(std::move(made.error()).while_doing("enabling cgroup controllers"), "setup-failed", "");
    return Course::kBroken;
  }
  ktstr::v1::Frame frame;
  frame.mutable_scenario_start();
  supervisor_.send(std::move(frame));
  supervisor_.set_iteration_source([this] { return iterations(); });

  auto gate = Gate::create();
  if (!gate) {
    outcome_.add(gate.error(), "setup-failed", "");
    return Course::kBroken;
  }
  first_gate_ = *std::move(gate);
  if (scenario_.backdrop().cgroups().empty()) return Course::kGood;
  auto made = Population::make(surroundings_, scenario_.backdrop().cgroups(), first_gate_);
  if (!made) {
    outcome_.add(std::move(made.error()).while_doing("setting up the backdrop"), "setup-failed", "");
    return Course::kBroken;
  }
  backdrop_ = *std::move(made);
  return make_ready(*backdrop_, "");
}

ScenarioRun::Course ScenarioRun::run_steps() {
  for (int index = 0; index < scenario_.steps_size(); ++index) {
    const std::string name = step_name(scenario_.steps(index), index);
    supervisor_.set_phase(fmt::format("step {}/{} '{}'", index + 1, scenario_.steps_size(), name));
    const Course course = run_step(index);
    if (course != Course::kGood) return course;
  }
  // The scheduler may have gone while the last step was collected.
  return ended(supervisor_.wait_until(monotonic_now()), "after the last step");
}

ScenarioRun::Course ScenarioRun::run_step(int index) {
  const std::string name = step_name(scenario_.steps(index), index);
  if (const Course course =
          ended(supervisor_.wait_until(monotonic_now()), fmt::format("before step '{}'", name));
      course != Course::kGood) {
    return course;
  }
  if (index > 0) {
    auto gate = Gate::create();
    if (!gate) {
      outcome_.add(gate.error(), "setup-failed", name);
      return Course::kBroken;
    }
    gate_ = *std::move(gate);
  } else {
    gate_ = first_gate_;
  }
  auto made = Population::make(surroundings_, scenario_.steps(index).cgroups(), gate_);
  if (!made) {
    outcome_.add(std::move(made.error()).while_doing(fmt::format("setting up step '{}'", name)),
                 "setup-failed", name);
    return Course::kBroken;
  }
  step_ = *std::move(made);
  ktstr::v1::StepResult result;
  result.set_name(name);
  Course course = make_ready(*step_, name);
  const nanoseconds length = std::min(hold_length(scenario_.steps(index).hold(), duration_), remaining());
  if (course == Course::kGood && length.count() <= 0) {
    // Judging workers that never ran would blame the scheduler for our own slowness.
    outcome_.add(ktstr::v1::INCONCLUSIVE, "no-time",
                 fmt::format("step '{}' got no time: earlier steps and set-up used up the scenario's {}",
                             name, seconds(duration_)),
                 name);
    course = Course::kBroken;
  }
  if (course == Course::kGood) course = hold(index, length, result);
  finish_step(index, course, result);
  return course;
}

// Time left of the scenario; all of it before the first gate has opened.
nanoseconds ScenarioRun::remaining() const {
  if (!first_gate_->is_open()) return duration_;
  return first_gate_->opened_at() + duration_ - monotonic_now();
}

ScenarioRun::Course ScenarioRun::make_ready(Population& population, const std::string& step) {
  const std::string place = step.empty() ? "the backdrop" : fmt::format("step '{}'", step);
  switch (population.workers().wait_ready()) {
    case WorkerGroup::Waited::kDone:
      return Course::kGood;
    case WorkerGroup::Waited::kSchedulerGone:
      return ended(Supervisor::Wake::kSchedulerGone, fmt::format("while {} was set up", place));
    case WorkerGroup::Waited::kStopRequested:
      return ended(Supervisor::Wake::kStopRequested, fmt::format("while {} was set up", place));
    case WorkerGroup::Waited::kDeadline:
      break;
  }
  outcome_.add(ktstr::v1::FAIL, "starved",
               fmt::format("{} of {} workers of {} did not get far enough to be ready within {}",
                           population.workers().not_ready(), population.workers().size(), place,
                           seconds(surroundings_.patience.ready)),
               step);
  return Course::kBroken;
}

ScenarioRun::Course ScenarioRun::hold(int index, nanoseconds length, ktstr::v1::StepResult& result) {
  gate_->open();
  const MonotonicTime start = gate_->opened_at();
  ktstr::v1::Frame frame;
  ktstr::v1::StepStart& step_start = *frame.mutable_step_start();
  step_start.set_index(static_cast<std::uint32_t>(index));
  step_start.set_name(result.name());
  step_start.set_workers(
      static_cast<std::uint32_t>(step_->workers().size() + (backdrop_ ? backdrop_->workers().size() : 0)));
  step_start.set_hold_ns(count(length));
  supervisor_.send(std::move(frame));

  const Supervisor::Wake wake = supervisor_.wait_until(start + length);
  const std::uint64_t iterations_at_end = iterations();
  const MonotonicTime end = monotonic_now();
  result.set_start_ns(count(start));
  result.set_end_ns(count(end));
  const Course course =
      ended(wake, fmt::format("during step '{}' after {}", result.name(), seconds(end - start)));
  if (course != Course::kGood) return course;
  result.set_hold_overshoot_ns(count(end - start - length));

  ktstr::v1::Frame end_frame;
  end_frame.mutable_step_end()->set_index(static_cast<std::uint32_t>(index));
  end_frame.mutable_step_end()->set_iterations(iterations_at_end);
  supervisor_.send(std::move(end_frame));
  return Course::kGood;
}

// Says why the scenario ends here, if it does.
ScenarioRun::Course ScenarioRun::ended(Supervisor::Wake wake, const std::string& during) {
  switch (wake) {
    case Supervisor::Wake::kSchedulerGone:
      outcome_.add(ktstr::v1::SCHEDULER_DIED, "scheduler-died", fmt::format("scheduler died {}", during), "");
      return Course::kSchedulerGone;
    case Supervisor::Wake::kStopRequested:
      outcome_.add(ktstr::v1::INCONCLUSIVE, "stopped", fmt::format("the run was asked to stop {}", during),
                   "");
      return Course::kStopRequested;
    case Supervisor::Wake::kDeadline:
    case Supervisor::Wake::kReadable:
      break;
  }
  return Course::kGood;
}

// Collects a population and judges it when it had a full hold.
void ScenarioRun::note(Population& population, Course course, const std::string& step) {
  const bool ask = course == Course::kGood || course == Course::kStopRequested;
  population.collect(ask ? WorkerGroup::How::kAsk : WorkerGroup::How::kKill,
                     course == Course::kSchedulerGone ? kKilledGone : kKilledBroken);
  for (std::string& error : population.setup_errors()) outcome_.warn(std::move(error));
  if (course != Course::kGood) return;
  if (population.workers().scheduler_went()) return;
  Judgement judgement = judge(population.judged(step), scenario_.checks());
  for (ktstr::v1::Reason& reason : judgement.reasons) {
    const bool few = reason.kind() == "few-samples";
    outcome_.add(few ? ktstr::v1::INCONCLUSIVE : ktstr::v1::FAIL, std::move(reason));
  }
  for (std::string& warning : judgement.warnings) outcome_.warn(std::move(warning));
}

void ScenarioRun::finish_step(int index, Course course, const ktstr::v1::StepResult& result) {
  // SIGKILL first, and everywhere at once: after the fall-back to the kernel's own scheduler, backdrop
  // workers that spin would make the collection slow.
  if (course == Course::kSchedulerGone) {
    step_->workers().kill(kKilledGone);
    if (backdrop_) backdrop_->workers().kill(kKilledGone);
  }
  note(*step_, course, result.name());
  if (gate_->is_open()) {
    for (ktstr::v1::Frame& frame :
         report_frames(static_cast<std::uint32_t>(index), &result, step_->results())) {
      supervisor_.send(std::move(frame));
    }
  }
  remove_cgroups(step_);
}

void ScenarioRun::finish_backdrop(Course course) {
  const bool started = first_gate_ != nullptr;
  if (backdrop_) {
    const bool ran = first_gate_->is_open();
    note(*backdrop_, course == Course::kGood && !ran ? Course::kBroken : course, "");
    for (ktstr::v1::Frame& frame : report_frames(0, nullptr, backdrop_->results())) {
      supervisor_.send(std::move(frame));
    }
    remove_cgroups(backdrop_);
  }
  if (!started) return;
  ktstr::v1::Frame frame;
  frame.mutable_scenario_end();
  supervisor_.send(std::move(frame));
}

void ScenarioRun::remove_cgroups(std::unique_ptr<Population>& population) {
  for (std::string& text : population->remove_cgroups()) outcome_.warn(std::move(text));
  population.reset();
}

std::uint64_t ScenarioRun::iterations() const {
  return (step_ ? step_->workers().iterations() : 0) + (backdrop_ ? backdrop_->workers().iterations() : 0);
}

}  // namespace ktstr::guest
