// OutcomeBuilder: puts findings of a scenario in order.
#pragma once

#include <string>
#include <vector>

#include "common/error.h"
#include "guest/scenario/executor.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// Collects verdicts with their reasons. The gravest verdict wins and its reasons come first: a dead scheduler
// explains what else went wrong; a failed check is evidence that later trouble does not take back; an
// inconclusive check is only worth something when there is nothing else.
class OutcomeBuilder {
 public:
  void add(ktstr::v1::Verdict verdict, ktstr::v1::Reason reason);
  void add(ktstr::v1::Verdict verdict, std::string kind, std::string text, std::string step);
  // An error on the way; its code is the verdict.
  void add(const Error& error, std::string kind, std::string step);
  void warn(std::string text);
  ScenarioOutcome build();

 private:
  struct Finding {
    ktstr::v1::Verdict verdict;
    ktstr::v1::Reason reason;
  };
  std::vector<Finding> findings_;
  std::vector<std::string> warnings_;
};

}  // namespace ktstr::guest
