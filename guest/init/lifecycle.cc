// The order of things in the guest:
//
//   crash reporter -> mounts -> console -> modules -> SCHED_FIFO -> frame port -> Hello -> plan -> topology
//   compared -> scheduler attached -> scenario -> scheduler stopped -> GuestResult -> Bye -> power off
//
// A guest can be kept where it waits for the host: before the plan, and, when the host wants that, once more
// with the scheduler attached (await_plan). What goes on from there is this guest, or clones of it at any
// later time; each begins by becoming one (clone_start.h).
//
// Until the frame port is open there is only the kernel console to complain to, so what can go wrong before
// it is either fatal (and dies loudly) or collected as a warning that travels later. Modules come before the
// port because they may be its driver. PID 1 takes SCHED_FIFO before the port exists so that everything the
// host ever waits for is done at that priority.
//
// The time to Hello is what a user waits for at every start. What Hello does not need (most mounts, the
// environment: they wait for RCU grace periods and for text patching) is done by a second thread meanwhile;
// it has ended before anything forks.
#include "guest/init/lifecycle.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "common/read_file.h"
#include "common/scenario_check.h"
#include "guest/init/boot_arguments.h"
#include "guest/init/crash_reporter.h"
#include "guest/init/environment.h"
#include "guest/init/fault_injection.h"
#include "guest/init/guest_facts.h"
#include "guest/init/init_supervisor.h"
#include "guest/init/mounts.h"
#include "guest/init/plan_check.h"
#include "guest/init/scheduler_session.h"
#include "guest/init/topology_check.h"
#include "guest/init/virtio_port.h"
#include "guest/scenario/executor.h"
#include "guest/workload/jitter.h"

namespace ktstr::guest {
namespace {

using namespace std::chrono_literals;
using ktstr::v1::GuestResult;
using ktstr::v1::Verdict;

constexpr std::uint32_t kProtocol = 1;
constexpr const char* kCgroupRoot = "/sys/fs/cgroup";
constexpr const char* kSystemFolder = "/sys/devices/system";
constexpr std::size_t kMaxCommandLine = 65536;
// host/run/guest_files.h puts it there.
constexpr const char* kPackedPlan = "/etc/ktstr/plan";
constexpr auto kPortLimit = 10s;
constexpr auto kInjectionDelay = 500ms;
constexpr auto kGoodbyeLimit = 30s;
constexpr auto kHostEndsUs = 5s;
constexpr auto kDefaultAttachIdle = 20s;
constexpr auto kDefaultAttachCpu = 30s;

// Time each phase of the start took, for a Note: start-up time is something people optimise.
class PhaseClock {
 public:
  explicit PhaseClock(MonotonicTime start) : last_(start) {}
  void done(const char* phase) {
    const MonotonicTime now = monotonic_now();
    const std::chrono::duration<double, std::milli> took = now - std::exchange(last_, now);
    text_ += fmt::format("{}{} {:.1f} ms", text_.empty() ? "" : ", ", phase, took.count());
  }
  const std::string& text() const { return text_; }

 private:
  MonotonicTime last_;
  std::string text_;
};

// Points standard input, output and error at a terminal. What PID 1 and the C library print there is meant
// for people.
void use_terminal(const char* path) {
  const int fd = ::open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return;
  for (const int target : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(fd, target);
  if (fd > STDERR_FILENO) ::close(fd);
}

void add_reason(GuestResult& result, std::string kind, std::string text) {
  ktstr::v1::Reason& reason = *result.add_reasons();
  reason.set_kind(std::move(kind));
  reason.set_text(std::move(text));
}

// The way to the host that the kernel command line names. Dies when there is none.
std::unique_ptr<FrameTransport> open_transport(const BootArguments& arguments) {
  if (arguments.debug_port != 0) return std::make_unique<DebugPortTransport>(arguments.debug_port);
  if (arguments.frame_port.empty())
    die("the kernel command line has no ktstr.frames=virtio:<port name> or debugcon:<I/O port>");
  Expected<UniqueFd> port = open_virtio_port(arguments.frame_port, kPortLimit);
  if (!port) die(port.error().to_string());
  return std::make_unique<PortTransport>(std::move(*port));
}

// Everything up to Hello. Dies when there is no way to reach the host.
struct Booted {
  BootArguments arguments;
  std::unique_ptr<InitSupervisor> supervisor;
  ktstr::v1::GuestFacts facts;
};

Booted boot(MonotonicTime start) {
  PhaseClock clock(start);
  Booted booted;
  std::vector<std::string> warnings;
  if (const Expected<> mounted = mount_essentials(); !mounted) die(mounted.error().to_string());
  use_terminal("/dev/console");
  std::vector<std::string> later_warnings;
  std::thread later([&later_warnings] {
    mount_rest(later_warnings);
    prepare_environment(later_warnings);
  });
  clock.done("essential mounts");
  const std::vector<std::string> modules = load_modules(warnings);
  clock.done("modules");
  const std::string fifo_error = become_fifo();

  const Expected<std::string> command_line = read_file("/proc/cmdline", kMaxCommandLine);
  if (!command_line) die(command_line.error().to_string());
  booted.arguments = parse_boot_arguments(*command_line);
  for (std::string& problem : booted.arguments.problems) warnings.push_back(std::move(problem));

  booted.facts = collect_guest_facts();
  clock.done("facts");
  std::unique_ptr<FrameTransport> transport = open_transport(booted.arguments);
  transport->announce_to_crash_reporter();
  Expected<std::unique_ptr<InitSupervisor>> supervisor =
      InitSupervisor::create(FramePort(std::move(transport)));
  if (!supervisor) die(supervisor.error().to_string());
  booted.supervisor = std::move(*supervisor);
  clock.done("port");

  booted.facts.set_fifo(fifo_error.empty());
  booted.facts.set_fifo_error(fifo_error);
  booted.facts.set_init_start_ns(static_cast<std::uint64_t>(start.count()));
  for (const std::string& module : modules) booted.facts.add_modules(module);
  booted.facts.set_hello_ns(static_cast<std::uint64_t>(monotonic_now().count()));
  ktstr::v1::Frame hello;
  hello.mutable_hello()->set_protocol(kProtocol);
  *hello.mutable_hello()->mutable_facts() = booted.facts;
  booted.supervisor->send(std::move(hello));

  if (::access("/dev/hvc0", F_OK) == 0) use_terminal("/dev/hvc0");
  later.join();
  clock.done("rest, after Hello");
  for (std::string& warning : later_warnings) booted.supervisor->warn(std::move(warning));
  for (std::string& warning : warnings) booted.supervisor->warn(std::move(warning));
  booted.supervisor->note("PID 1 start: " + clock.text());
  return booted;
}

// The plan of a guest that nothing enters after its start: a file of the initramfs.
std::optional<ktstr::v1::StartPlan> read_packed_plan(GuestResult& result) {
  ktstr::v1::StartPlan start;
  const Expected<std::string> bytes = read_file(kPackedPlan, kMaxFramePayload);
  if (bytes && start.mutable_plan()->ParseFromString(*bytes)) return start;
  result.set_verdict(ktstr::v1::HOST_TROUBLE);
  add_reason(result, "no-plan", bytes ? std::string(kPackedPlan) + " is no plan" : bytes.error().to_string());
  return std::nullopt;
}

// Waits for the host to send the plan; nothing when it wants the run to end instead, or when the scheduler
// that the plan is for has left.
std::optional<ktstr::v1::StartPlan> wait_for_plan(InitSupervisor& supervisor, ktstr::v1::Waiting::For what,
                                                  GuestResult& result) {
  supervisor.set_phase(what == ktstr::v1::Waiting::PLAN ? "waiting for the plan"
                                                        : "waiting for the scenario");
  supervisor.await_plan(what);
  std::optional<ktstr::v1::StartPlan> plan;
  while (!(plan = supervisor.take_plan())) {
    if (supervisor.scheduler_gone()) return std::nullopt;
    if (supervisor.stop_requested()) {
      result.set_verdict(ktstr::v1::INCONCLUSIVE);
      add_reason(result, "stopped", "the run was ended before its plan came: " + supervisor.stop_reason());
      return std::nullopt;
    }
    // A passed deadline: this returns after each event; a plan is no reason to wake of its own.
    supervisor.loop().run_once(monotonic_now() + 1h);
  }
  return plan;
}

// Whether the kernel sees the planned topology; if not, `result` says what is different.
bool compare_topology(const ktstr::v1::RunPlan& plan, Injection injection, GuestResult& result) {
  if (!plan.machine().has_topology()) return true;
  const ktstr::v1::Topology& planned = plan.machine().topology();
  const auto finding =
      find_topology_difference(injection == Injection::kTopology ? with_small_llcs(planned) : planned,
                               kSystemFolder, read_file("/proc/cmdline", kMaxCommandLine).value_or(""));
  if (!finding) return true;
  result.set_verdict(finding->kernel_lacks ? ktstr::v1::KERNEL_LACKS : ktstr::v1::HOST_TROUBLE);
  add_reason(result, "topology", finding->text);
  return false;
}

// Gets a plan and answers it; nothing when there is none to run. `attached`: the scheduler that runs already.
std::optional<ktstr::v1::StartPlan> receive_plan(InitSupervisor& supervisor, const Booted& booted,
                                                 const ktstr::v1::SchedulerSpec* attached,
                                                 GuestResult& result) {
  std::optional<ktstr::v1::StartPlan> start =
      supervisor.port().one_way()
          ? read_packed_plan(result)
          : wait_for_plan(supervisor,
                          attached != nullptr ? ktstr::v1::Waiting::SCENARIO : ktstr::v1::Waiting::PLAN,
                          result);
  if (!start) return std::nullopt;
  const ktstr::v1::RunPlan& plan = start->plan();
  ktstr::v1::Frame answer;
  if (const std::string problem = supervisor.files_problem(); !problem.empty()) {
    answer.mutable_plan_accepted()->set_refused("its files are not all there: " + problem);
    supervisor.send(std::move(answer));
    result.set_verdict(ktstr::v1::HOST_TROUBLE);
    add_reason(result, "files", problem);
    return std::nullopt;
  }
  // On the wrong CPUs there is nothing to say about a scenario's CPU sets.
  const bool as_planned =
      plan.schema_version() != kPlanVersion || compare_topology(plan, booted.arguments.injection, result);
  std::string refused = as_planned ? refuse_plan(plan, booted.facts.cpus_online()) : std::string();
  if (refused.empty() && attached != nullptr) refused = refuse_other_scheduler(plan, *attached);
  answer.mutable_plan_accepted()->set_refused(refused);
  supervisor.send(std::move(answer));
  if (refused.empty()) return as_planned ? start : std::nullopt;
  result.set_verdict(ktstr::v1::USAGE);
  add_reason(result, "plan-refused", refused);
  return std::nullopt;
}

void merge(ScenarioOutcome outcome, GuestResult& result) {
  result.set_verdict(outcome.verdict);
  for (ktstr::v1::Reason& reason : outcome.reasons) *result.add_reasons() = std::move(reason);
  for (std::string& warning : outcome.warnings) *result.add_warnings() = std::move(warning);
}

// The scheduler's own words come first, whatever the scenario made of its absence.
void lead_with(GuestResult& result, const std::string& kind, const std::string& text) {
  GuestResult rest = result;
  result.clear_reasons();
  add_reason(result, kind, text);
  for (ktstr::v1::Reason& reason : *rest.mutable_reasons()) {
    if (reason.kind() != kind) *result.add_reasons() = std::move(reason);
  }
}

void report_failed_start(const Error& error, const SchedulerSession& session, GuestResult& result) {
  const bool timed_out = error.message().starts_with("did not attach");
  result.set_verdict(static_cast<Verdict>(error.code()));
  add_reason(result,
             error.code() == ErrorCode::kSchedulerDied  ? "scheduler-exit"
             : error.code() == ErrorCode::kKernelLacks  ? "kernel-lacks"
             : error.code() == ErrorCode::kInconclusive ? "stopped"
             : timed_out                                ? "attach-timeout"
                                                        : "scheduler-start",
             error.to_string());
  if (!error.detail().empty()) add_reason(result, "scheduler-output", error.detail());
  *result.mutable_scheduler() = session.result();
}

// Ends the scheduler and says what became of it.
void finish_scheduler(SchedulerSession& session, GuestResult& result) {
  const bool in_good_order = session.finish();
  *result.mutable_scheduler() = session.result();
  if (!in_good_order) {
    result.set_verdict(ktstr::v1::SCHEDULER_DIED);
    lead_with(result, "scheduler-exit", session.result().exit_message());
  }
}

SchedulerSession::AttachLimits attach_limits(const ktstr::v1::RunPlan& plan, double slowness) {
  return {.idle = duration_or(plan.limits().attach_idle(), kDefaultAttachIdle),
          .cpu = std::min<std::chrono::nanoseconds>(
              duration_or(plan.limits().attach_cpu(), kDefaultAttachCpu), 24h),
          .slowness = slowness};
}

void run_plan(InitSupervisor& supervisor, const Booted& booted, ktstr::v1::StartPlan start,
              GuestResult& result) {
  const Injection injection = booted.arguments.injection;
  std::optional<SchedulerSession> session;
  if (start.plan().has_scheduler()) {
    session.emplace(supervisor, start.plan().scheduler(),
                    attach_limits(start.plan(), booted.facts.slowness()));
    if (const Expected<> attached = session->attach(); !attached) {
      report_failed_start(attached.error(), *session, result);
      return;
    }
  }
  if (session && start.hold()) {
    session->wait_settled();
    const ktstr::v1::SchedulerSpec attached = start.plan().scheduler();
    auto next = receive_plan(supervisor, booted, &attached, result);
    if (!next) return finish_scheduler(*session, result);
    start = std::move(*next);
  }
  const ktstr::v1::RunPlan& plan = start.plan();
  supervisor.on_scenario_start([&supervisor, &session, injection] {
    if (injection == Injection::kNone) return;
    supervisor.loop().add_timer(monotonic_now() + kInjectionDelay, 0s, [&session, injection] {
      inject_fault(injection, [&session] {
        if (session) session->kill();
      });
    });
  });
  if (plan.has_deterministic()) jitter_cpus(plan.deterministic().jitter_seed());
  merge(run_scenario(plan, kCgroupRoot, supervisor), result);
  if (session) finish_scheduler(*session, result);
}

}  // namespace

void run_as_init() {
  const MonotonicTime start = monotonic_now();
  install_crash_reporter();
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(022);
  const Booted booted = boot(start);
  InitSupervisor& supervisor = *booted.supervisor;
  GuestResult result;
  if (auto start_plan = receive_plan(supervisor, booted, nullptr, result))
    run_plan(supervisor, booted, std::move(*start_plan), result);
  supervisor.reaper().reap();
  supervisor.set_phase("ending");
  for (const std::string& warning : supervisor.warnings()) result.add_warnings(warning);
  ktstr::v1::Frame frame;
  *frame.mutable_result() = std::move(result);
  if (booted.arguments.injection == Injection::kLateOutput) send_late_output(supervisor);
  supervisor.send(std::move(frame));
  supervisor.say_goodbye(kGoodbyeLimit);
  ::sync();
  // What left by the debug port has arrived, and when a deterministic guest ends is for the guest alone to
  // say.
  if (supervisor.port().one_way()) power_off();
  // Otherwise the host ends the machine when it has Bye. Switching off at once would lose frames: the
  // kernel's device shutdown discards what the host has not yet taken from the virtio ring, blocking write or
  // not.
  supervisor.wait_until(monotonic_now() + kHostEndsUs, -1, true);
  power_off();
}

}  // namespace ktstr::guest
