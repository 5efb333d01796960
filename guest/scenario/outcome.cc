#include "guest/scenario/outcome.h"

#include <algorithm>
#include <utility>

namespace ktstr::guest {
namespace {

constexpr std::size_t kMaxReasons = 100;
constexpr std::size_t kMaxWarnings = 100;

int gravity(ktstr::v1::Verdict verdict) {
  switch (verdict) {
    case ktstr::v1::PASS:
      return 0;
    case ktstr::v1::INCONCLUSIVE:
      return 1;
    case ktstr::v1::FAIL:
      return 3;
    case ktstr::v1::SCHEDULER_DIED:
      return 4;
    default:
      return 2;
  }
}

ktstr::v1::Verdict verdict_of(ErrorCode code) {
  const int number = static_cast<int>(code);
  return ktstr::v1::Verdict_IsValid(number) ? static_cast<ktstr::v1::Verdict>(number)
                                            : ktstr::v1::HOST_TROUBLE;
}

}  // namespace

void OutcomeBuilder::add(ktstr::v1::Verdict verdict, ktstr::v1::Reason reason) {
  findings_.push_back({verdict, std::move(reason)});
}

void OutcomeBuilder::add(ktstr::v1::Verdict verdict, std::string kind, std::string text, std::string step) {
  ktstr::v1::Reason reason;
  reason.set_kind(std::move(kind));
  reason.set_text(std::move(text));
  reason.set_step(std::move(step));
  add(verdict, std::move(reason));
}

void OutcomeBuilder::add(const Error& error, std::string kind, std::string step) {
  add(verdict_of(error.code()), std::move(kind), error.to_string(), std::move(step));
}

void OutcomeBuilder::warn(std::string text) {
  if (warnings_.size() < kMaxWarnings) warnings_.push_back(std::move(text));
}

ScenarioOutcome OutcomeBuilder::build() {
  std::stable_sort(findings_.begin(), findings_.end(), [](const Finding& a, const Finding& b) {
    return gravity(a.verdict) > gravity(b.verdict);
  });
  ScenarioOutcome outcome;
  if (!findings_.empty()) outcome.verdict = findings_.front().verdict;
  if (findings_.size() > kMaxReasons) findings_.erase(findings_.begin() + kMaxReasons, findings_.end());
  for (Finding& finding : findings_) outcome.reasons.push_back(std::move(finding.reason));
  outcome.warnings = std::move(warnings_);
  return outcome;
}

}  // namespace ktstr::guest
