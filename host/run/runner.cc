#include "host/run/runner.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <fmt/format.h>

#include "common/quote.h"
#include "host/report/json_writer.h"
#include "host/report/verdict_text.h"
#include "host/run/attempt.h"
#include "host/run/cloning.h"
#include "host/run/determinism.h"
#include "host/run/explain.h"
#include "host/run/host_section.h"
#include "host/run/prepare.h"
#include "host/run/run_folder.h"
#include "host/run/run_owner.h"

namespace ktstr {
namespace {

using std::chrono::nanoseconds;
using SteadyClock = std::chrono::steady_clock;

constexpr std::uint32_t kSchemaVersion = 1;
// Machine time until a clone has answered; it needs some 0.2 s.
constexpr nanoseconds kCloneLimit = std::chrono::seconds(20);

// Turns SIGINT, SIGTERM and SIGUSR1 into events of the loop, from before the first file is made until the
// result is written.
class SignalWatch {
 public:
  explicit SignalWatch(boost::asio::io_context& loop) : signals_(loop, SIGINT, SIGTERM, SIGUSR1) { wait(); }
  // Who is told; the first signal that came before anybody listened is kept.
  void set_handler(std::function<void(const std::string&)> handler) {
    handler_ = std::move(handler);
    if (handler_ && !pending_.empty()) handler_(std::exchange(pending_, {}));
  }
  bool pending() const { return !pending_.empty(); }
  void stop() {
    stopped_ = true;
    signals_.cancel();
  }

 private:
  void wait() {
    signals_.async_wait([this](const boost::system::error_code& error, int number) {
      if (error || stopped_) return;
      const std::string name = number == SIGUSR1 ? "SIGUSR1" : number == SIGINT ? "SIGINT" : "SIGTERM";
      if (number == SIGUSR1) {
        if (handler_) handler_(name);
      } else if (handler_)
        handler_(name);
      else
        pending_ = name;
      wait();
    });
  }

  boost::asio::signal_set signals_;
  std::function<void(const std::string&)> handler_;
  std::string pending_;
  bool stopped_ = false;
};

void say_overcommitted(const ktstr::v1::HostSection& host, std::uint32_t vcpus, StatusLine& status) {
  if (!host.overcommitted()) return;
  status.event(fmt::format("{} vCPUs share {:.3g} host CPU{}: the guest's tasks also wait for the host",
                           vcpus, host.usable_cpus(), host.usable_cpus() == 1 ? "" : "s"));
}

// What all attempts of one run share.
struct RunContext {
  boost::asio::io_context& loop;
  SignalWatch& signals;
  const RunRequest& request;
  const Prepared& prepared;
  const ktstr::v1::RunPlan& plan;
  Attempt::Logs& logs;
  StatusLine& status;
  RunRecord* record;  // nullptr: not deterministic
  Freezer& freezer;
  Cloning& cloning;
};

// One attempt's end.
struct Tried {
  Judgement judgement;
  // A clone never said a word.
  bool mute = false;
};

// Tries once; fills what this try found into `result`.
Expected<Tried> run_attempt(const RunContext& run, Machine& machine, ktstr::v1::RunResult& result) {
  const bool clone = run.cloning.is_clone();
  describe_machine(*result.mutable_host(), machine, run.prepared);
  GuardLimits limits = run.prepared.limits;
  if (clone) limits.boot = std::min<nanoseconds>(limits.boot, kCloneLimit);
  Attempt attempt(run.loop, machine, run.plan, limits, run.logs, run.status, run.request.verbose > 0);
  attempt.set_files(run.prepared.later_files);
  attempt.set_cloning(run.cloning);
  if (run.record != nullptr) attempt.set_record(*run.record);
  attempt.set_freezer(run.freezer);
  run.signals.set_handler([&attempt](const std::string& name) {
    if (name == "SIGUSR1") return attempt.request_dump("signal");
    attempt.interrupt(name);
  });
  auto ran = attempt.run();
  run.signals.set_handler({});
  add_later_warnings(*result.mutable_host(), machine);
  if (!ran) return std::unexpected(std::move(ran.error()));
  *result.mutable_guest() = attempt.session().guest();
  *result.mutable_host()->mutable_frames() = attempt.session().stats();
  result.mutable_host()->set_own_memory_bytes(std::max(run.prepared.peak_memory, attempt.own_memory()));
  describe_statistics(attempt, *result.mutable_host()->mutable_statistics());
  add_run_phases(*result.mutable_host(), attempt, clone);
  const Evidence evidence = attempt.evidence();
  Tried tried{.judgement = judge(evidence)};
  tried.mute =
      clone && evidence.session.phase() == Session::Phase::kBooting && evidence.interrupted_by.empty();
  return tried;
}

// A clone that cannot be started, or does not say a word, is the snapshot's fault: then the run boots.
Expected<Tried> run_clone_or_boot(const RunContext& run, std::unique_ptr<Machine> machine,
                                  ktstr::v1::RunResult& result) {
  if (!run.cloning.is_clone()) return run_attempt(run, *machine, result);
  const ktstr::v1::HostSection before = result.host();
  const auto begin = [&]() -> Expected<Tried> {
    auto files = run.cloning.files();
    if (!files) return std::unexpected(std::move(files.error()));
    auto clone = make_machine(run.loop, run.prepared, false, std::move(*files));
    if (!clone) return std::unexpected(std::move(clone.error()));
    return run_attempt(run, **clone, result);
  };
  auto tried = begin();
  if (tried && !tried->mute) return tried;
  const std::string why = tried ? "its guest does not answer: " + tried->judgement.reasons.front().text()
                                : tried.error().to_string();
  if (run.request.clone == RunRequest::Clone::kAlways) {
    if (!tried) return tried;
    return fail(ErrorCode::kHost, "--clone always: " + why);
  }
  run.status.event("booting: " + why);
  run.cloning.give_up(why, true);
  *result.mutable_host() = before;
  run.logs.console.append("\nktstr-vm: the clone was of no use; booting\n");
  return run_attempt(run, *machine, result);
}

// Runs, and repeats once with one vCPU thread when the emulator broke the guest.
Expected<Judgement> run_attempts(const RunContext& run, std::unique_ptr<Machine> machine,
                                 ktstr::v1::RunResult& result) {
  const ktstr::v1::HostSection before = result.host();
  result.mutable_host()->set_attempt(1);
  auto first = run_clone_or_boot(run, std::move(machine), result);
  if (!first) return std::unexpected(std::move(first.error()));
  // Deterministic machines have one thread for all vCPUs from the start.
  const bool may_repeat = run.request.retry && run.record == nullptr;
  if (!first->judgement.emulator_fault || !may_repeat) return std::move(first->judgement);
  const std::string why = first->judgement.reasons.front().text();
  run.cloning.give_up(why, false);
  run.status.event("repeating with one thread for all vCPUs: " + why);
  *result.mutable_host() = before;
  result.mutable_host()->set_attempt(2);
  result.mutable_host()->add_attempt_reasons(why);
  run.logs.console.append("\nktstr-vm: second attempt, one thread for all vCPUs\n");
  auto second = make_machine(run.loop, run.prepared, true);
  if (!second) return std::unexpected(std::move(second.error()));
  auto tried = run_attempt(run, **second, result);
  if (!tried) return std::unexpected(std::move(tried.error()));
  return std::move(tried->judgement);
}

// What came before the snapshot is in another run's logs.
void note_clone(const ktstr::v1::CloneRecord& record, Attempt::Logs& logs, StatusLine& status) {
  const std::string text =
      fmt::format("clone of the snapshot {} ({}), made {} by the run {}", record.snapshot().substr(0, 8),
                  record.point(), record.made_at(), record.made_by());
  status.event(text);
  logs.console.append("ktstr-vm: " + text + "\n");
  if (record.point() == point_name(SnapshotPoint::kAttached))
    logs.scheduler.append("ktstr-vm: " + text + "\n");
}

Expected<Attempt::Logs> open_logs(const RunFolder& folder) {
  auto console = folder.open_log("console.log");
  if (!console) return std::unexpected(std::move(console.error()));
  auto scheduler = folder.open_log("scheduler.log");
  if (!scheduler) return std::unexpected(std::move(scheduler.error()));
  return Attempt::Logs{std::move(*console), std::move(*scheduler)};
}

Expected<void> describe_inputs(const Prepared& prepared, const Machine& machine, const RunHooks& hooks,
                               ktstr::v1::Determinism& determinism) {
  auto inputs = list_inputs(prepared, machine);
  if (!inputs) return std::unexpected(std::move(inputs.error()));
  if (hooks.on_inputs) {
    if (auto allowed = hooks.on_inputs(*inputs); !allowed) return allowed;
  }
  determinism.set_seed(prepared.plan.deterministic().seed());
  determinism.mutable_inputs()->Assign(inputs->begin(), inputs->end());
  return {};
}

// Nothing for a run that is not deterministic.
Expected<std::optional<RunRecord>> open_record(const RunFolder& folder, const ktstr::v1::RunPlan& plan,
                                               const RunHooks& hooks) {
  if (!plan.has_deterministic()) return std::nullopt;
  auto frames = folder.open_log("frames.bin");
  if (!frames) return std::unexpected(std::move(frames.error()));
  return std::optional<RunRecord>(std::in_place, std::move(*frames), hooks.earlier);
}

// Puts the judgement, or the error that took its place, into the result. True when the user ended the run.
bool conclude(Expected<Judgement> judgement, ktstr::v1::RunResult& result) {
  if (!judgement) {
    result.set_verdict(verdict_of(judgement.error().code()));
    result.set_partial(true);
    *result.add_reasons() = reason_of(judgement.error());
    return false;
  }
  bool interrupted = false;
  result.set_verdict(judgement->verdict);
  result.set_partial(judgement->partial);
  for (auto& reason : judgement->reasons) {
    interrupted = interrupted || reason.kind() == "interrupted";
    *result.add_reasons() = std::move(reason);
  }
  return interrupted;
}

}  // namespace

ktstr::v1::Verdict verdict_of(ErrorCode code) {
  return static_cast<ktstr::v1::Verdict>(code);
}

ktstr::v1::Reason reason_of(const Error& error) {
  ktstr::v1::Reason reason;
  switch (error.code()) {
    case ErrorCode::kUsage:
      reason.set_kind("bad-input");
      break;
    case ErrorCode::kKernelLacks:
      reason.set_kind("kernel-lacks");
      break;
    case ErrorCode::kStartFailed:
      reason.set_kind("start-failed");
      break;
    default:
      reason.set_kind("host-trouble");
      break;
  }
  reason.set_text(error.to_string() + (error.detail().empty() ? "" : "\n" + error.detail()));
  return reason;
}

Expected<RunOutput> run(const RunRequest& request, StatusLine& status, const RunHooks& hooks) {
  const auto started = SteadyClock::now();
  boost::asio::io_context loop;
  SignalWatch signals(loop);
  status.update("reading the kernel image");
  auto prepared = prepare(request);
  if (!prepared) return std::unexpected(std::move(prepared.error()));
  // Made before the run has a folder: what the machine cannot have is the user's mistake, and leaves nothing
  // behind.
  auto machine = make_machine(loop, *prepared, false);
  if (!machine) return std::unexpected(std::move(machine.error()));
  RunOutput output;
  ktstr::v1::RunResult& result = output.result;
  if (prepared->plan.has_deterministic()) {
    if (auto described = describe_inputs(*prepared, **machine, hooks, *result.mutable_determinism());
        !described)
      return std::unexpected(std::move(described.error()));
  }
  auto cloning = Cloning::decide(request, *prepared, **machine);
  if (!cloning) return std::unexpected(std::move(cloning.error()));
  if (!cloning->is_clone() && !cloning->keeps(SnapshotPoint::kHello) &&
      !prepared->later_files.files.empty()) {
    if (auto packed = pack_all_files(*prepared); !packed) return std::unexpected(std::move(packed.error()));
    machine = make_machine(loop, *prepared, false);
    if (!machine) return std::unexpected(std::move(machine.error()));
  }
  Freezer freezer(request, *prepared, status);
  if (auto ready = freezer.prepare(); !ready) return std::unexpected(std::move(ready.error()));
  auto folder = RunFolder::create(request.out);
  if (!folder) return std::unexpected(std::move(folder.error()));
  ktstr::v1::RunPlan plan = prepared->plan;
  plan.set_run_id(folder->id());
  plan.mutable_kernel()->set_command_line((*machine)->command_line().text);

  result.set_schema_version(kSchemaVersion);
  *result.mutable_plan() = plan;
  describe_host(*result.mutable_host(), request, *prepared);
  say_overcommitted(result.host(), prepared->topology.cpus(), status);
  if (auto written = folder->write("plan.textproto", plan_text(plan)); !written)
    return std::unexpected(std::move(written.error()));
  if (auto written = folder->write("command", shell_quoted(request.argv) + "\n"); !written)
    return std::unexpected(std::move(written.error()));
  const auto owner = RunOwnerFile::create(*folder);
  if (!owner) return std::unexpected(owner.error());
  auto logs = open_logs(*folder);
  if (!logs) return std::unexpected(std::move(logs.error()));

  auto record = open_record(*folder, plan, hooks);
  if (!record) return std::unexpected(std::move(record.error()));
  RunRecord* const recorder = *record ? &**record : nullptr;
  freezer.set_run(*folder, recorder);
  const RunContext context{loop,  signals, request,  *prepared, plan,
                           *logs, status,  recorder, freezer,   *cloning};
  if (cloning->is_clone()) note_clone(cloning->record(), *logs, status);
  const bool interrupted = conclude(run_attempts(context, std::move(*machine), result), result);
  for (const auto& dump : freezer.records()) *result.add_dumps() = dump;
  for (const std::string& warning : freezer.warnings()) result.mutable_host()->add_warnings(warning);
  for (const std::string& warning : cloning->warnings()) result.mutable_host()->add_warnings(warning);
  if (!plan.has_deterministic()) *result.mutable_clone() = cloning->record();
  if (recorder != nullptr) recorder->describe(*result.mutable_determinism());
  result.set_exit_code(static_cast<std::uint32_t>(
      exit_code(result.verdict(), request.bisect, request.bisect_boot, interrupted)));
  const int log_error =
      logs->console.write_error() != 0 ? logs->console.write_error() : logs->scheduler.write_error();
  if (log_error != 0)
    result.mutable_host()->add_warnings(
        Error::from_errno(ErrorCode::kHost, "the logs are incomplete", log_error).to_string());
  result.mutable_host()->set_wall_ns(static_cast<std::uint64_t>((SteadyClock::now() - started).count()));

  if (auto written = folder->write("result.json", to_json(result)); written) {
    output.result_path = (folder->path() / "result.json").string();
  } else {
    // The verdict stands even when its file could not be written.
    result.mutable_host()->add_warnings(written.error().to_string());
  }
  signals.stop();
  return output;
}

}  // namespace ktstr
