#include "host/run/judge.h"

#include <utility>

#include <fmt/format.h>

namespace ktstr {
namespace {

using ktstr::v1::Reason;
using ktstr::v1::Verdict;

constexpr std::size_t kMaxReasons = 50;
constexpr std::size_t kTailLines = 5;

Reason make_reason(std::string kind, std::string text) {
  Reason reason;
  reason.set_kind(std::move(kind));
  reason.set_text(std::move(text));
  return reason;
}

// Collects findings in order of weight: the first one decides.
class Findings {
 public:
  void add(Verdict verdict, Reason reason) {
    if (!decided_) verdict_ = verdict;
    decided_ = true;
    add(std::move(reason));
  }
  // A finding that explains but does not decide.
  void add(Reason reason) {
    if (reasons_.size() < kMaxReasons) reasons_.push_back(std::move(reason));
  }
  bool decided() const { return decided_; }
  Verdict verdict() const { return verdict_; }
  std::vector<Reason> take_reasons() { return std::move(reasons_); }

 private:
  bool decided_ = false;
  Verdict verdict_ = ktstr::v1::INCONCLUSIVE;
  std::vector<Reason> reasons_;
};

std::string last_lines(const ConsoleScanner& console) {
  const std::vector<std::string> tail = console.tail(kTailLines);
  return tail.empty() ? "; the console is empty"
                      : fmt::format("; last on the console:\n    {}", fmt::join(tail, "\n    "));
}

void look_at_kernel(const Evidence& evidence, bool booted, Findings& findings) {
  const Verdict verdict = booted ? ktstr::v1::KERNEL_PANIC : ktstr::v1::NO_BOOT;
  // An oops explains the panic that oops=panic makes of it.
  if (const auto& oops = evidence.console.oops())
    findings.add(verdict, make_reason("kernel-oops", oops->line));
  if (const auto& panic = evidence.console.panic())
    findings.add(verdict, make_reason("kernel-panic", panic->line));
}

void look_at_machine(const Evidence& evidence, bool booted, Findings& findings) {
  if (!evidence.machine_end) return;
  const std::string& detail = evidence.machine_end->detail;
  switch (evidence.machine_end->kind) {
    case MachineEvent::Kind::kDied:
      findings.add(ktstr::v1::HOST_TROUBLE,
                   make_reason("machine-died", "the virtual machine failed: " + detail));
      break;
    case MachineEvent::Kind::kReset:
      if (evidence.session.phase() == Session::Phase::kBye) break;
      findings.add(booted ? ktstr::v1::KERNEL_PANIC : ktstr::v1::NO_BOOT,
                   make_reason("guest-reset", "the guest rebooted without a goodbye" +
                                                  (detail.empty() ? std::string() : " (" + detail + ")") +
                                                  last_lines(evidence.console)));
      break;
    case MachineEvent::Kind::kPoweredOff:
      if (evidence.session.phase() == Session::Phase::kBye) break;
      findings.add(booted ? ktstr::v1::HOST_TROUBLE : ktstr::v1::NO_BOOT,
                   make_reason("guest-power-off", "the guest switched itself off without a goodbye" +
                                                      last_lines(evidence.console)));
      break;
    case MachineEvent::Kind::kPaused:
    case MachineEvent::Kind::kTrapped:
    case MachineEvent::Kind::kWritten:
      findings.add(ktstr::v1::HOST_TROUBLE,
                   make_reason("machine-paused", "the virtual machine stopped: " + detail));
      break;
  }
}

void look_at_guard(const Evidence& evidence, bool booted, Findings& findings) {
  if (!evidence.guard_trip) return;
  std::string text = evidence.guard_trip->text;
  if (!evidence.session.activity().empty()) text += fmt::format(" (while: {})", evidence.session.activity());
  text += last_lines(evidence.console);
  static constexpr const char* kKinds[] = {"boot-timeout",     "guest-silent",   "attach-timeout",
                                           "scenario-timeout", "finish-timeout", "machine-standstill"};
  const bool standstill = evidence.guard_trip->kind == GuardTrip::Kind::kStandstill;
  findings.add(standstill ? ktstr::v1::HOST_TROUBLE
               : booted   ? ktstr::v1::TIMEOUT
                          : ktstr::v1::NO_BOOT,
               make_reason(kKinds[static_cast<std::size_t>(evidence.guard_trip->kind)], std::move(text)));
}

void look_at_guest(const Evidence& evidence, Findings& findings) {
  const Session& session = evidence.session;
  if (!session.plan_refused().empty()) {
    findings.add(ktstr::v1::HOST_TROUBLE,
                 make_reason("plan-refused", "PID 1 refused the plan: " + session.plan_refused()));
  }
  const auto& facts = session.guest().facts();
  if (!evidence.expected_build_id.empty() && !facts.build_id().empty() &&
      facts.build_id() != evidence.expected_build_id) {
    findings.add(
        ktstr::v1::HOST_TROUBLE,
        make_reason("wrong-kernel", fmt::format("the guest runs build {} but the image is {}",
                                                printable(facts.build_id()), evidence.expected_build_id)));
  }
  if (const auto& lockup = evidence.console.lockup())
    findings.add(ktstr::v1::TIMEOUT, make_reason("lockup", lockup->line));
  const auto& result = session.guest_result();
  if (!result) return;
  if (result->verdict() != ktstr::v1::PASS) {
    const bool known = ktstr::v1::Verdict_IsValid(result->verdict());
    for (const Reason& reason : result->reasons()) {
      Reason clean = make_reason(printable(reason.kind()), reason.text());
      clean.set_step(printable(reason.step()));
      findings.add(known ? result->verdict() : ktstr::v1::INCONCLUSIVE, std::move(clean));
    }
    if (!findings.decided()) {
      findings.add(known ? result->verdict() : ktstr::v1::INCONCLUSIVE,
                   make_reason("no-reason", "the guest gave no reason"));
    }
    return;
  }
  const ktstr::v1::FrameStats stats = session.stats();
  if (stats.lost() > 0 || stats.resyncs() > 0 || stats.breaks() > 0) {
    findings.add(
        ktstr::v1::INCONCLUSIVE,
        make_reason(
            "frames-lost",
            fmt::format(
                "frames from the guest were lost or damaged: {} missing, {} times out of step, {} breaks",
                stats.lost(), stats.resyncs(), stats.breaks())));
  }
  if (session.scenario_end_ns() == 0) {
    findings.add(ktstr::v1::INCONCLUSIVE,
                 make_reason("no-scenario-end", "the guest reported a pass without a scenario"));
  }
}

}  // namespace

Judgement judge(const Evidence& evidence) {
  const bool booted = evidence.session.phase() != Session::Phase::kBooting;
  const auto& guest_result = evidence.session.guest_result();
  Judgement judgement;
  Findings findings;
  if (evidence.emulated && evidence.console.emulator_int3()) {
    judgement.emulator_fault = true;
    findings.add(
        ktstr::v1::HOST_TROUBLE,
        make_reason("emulator-fault",
                    "the emulator ran a breakpoint that the kernel had already removed from its code: " +
                        evidence.console.oops()->line));
  }
  if (const auto& crash = evidence.session.init_crash()) {
    findings.add(ktstr::v1::HOST_TROUBLE,
                 make_reason("init-crash", "PID 1 of the guest (ktstr-guest) crashed: " + crash->reason() +
                                               "\n" + crash->backtrace()));
  }
  look_at_kernel(evidence, booted, findings);
  if (!evidence.interrupted_by.empty()) {
    findings.add(ktstr::v1::INCONCLUSIVE, make_reason("interrupted", "ended by " + evidence.interrupted_by));
  }
  if (!evidence.stopped_at_freeze.empty()) {
    findings.add(
        ktstr::v1::SCHEDULER_DIED,
        make_reason("scheduler-exit", fmt::format("the scheduler failed ({}); the run was ended at its dump",
                                                  evidence.stopped_at_freeze)));
  }
  look_at_machine(evidence, booted, findings);
  look_at_guard(evidence, booted, findings);
  look_at_guest(evidence, findings);

  judgement.partial = !guest_result || evidence.session.phase() != Session::Phase::kBye ||
                      !evidence.interrupted_by.empty() || evidence.session.stats().lost() > 0;
  if (findings.decided()) {
    judgement.verdict = findings.verdict();
  } else if (guest_result && guest_result->verdict() == ktstr::v1::PASS) {
    judgement.verdict = ktstr::v1::PASS;
  } else {
    findings.add(ktstr::v1::HOST_TROUBLE, make_reason("no-result", "the guest ended without a result"));
    judgement.verdict = findings.verdict();
  }
  judgement.reasons = findings.take_reasons();
  return judgement;
}

}  // namespace ktstr
