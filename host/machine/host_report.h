// Judges what a host offers: line by line what is there, what that means for ktstr-vm, and how to mend what
// is missing. Depends on nothing but the facts, so every judgement can be tested.
#pragma once

#include <string>
#include <vector>

#include "host/machine/host_facts.h"

namespace ktstr {

enum class FindingState {
  kGood,     // as it should be
  kNote,     // worth knowing, nothing to mend
  kWarning,  // works, but worse than it could
  kProblem,  // something cannot be had
};
// "good", "note", "warning", "problem"
const char* finding_state_name(FindingState state);

struct Finding {
  std::string name;   // "/dev/kvm", "QEMU"
  std::string value;  // what it is, on this host
  FindingState state = FindingState::kGood;
  std::string remedy;  // what to do; empty where nothing is to be done
};

struct FindingGroup {
  std::string title;
  std::vector<Finding> findings;
};

struct HostReport {
  std::string host;  // "6.1.0-30-amd64, AMD EPYC 7763"
  std::vector<FindingGroup> groups;
  bool kvm_can_run = false;
  bool tcg_can_run = false;
  // What --accel auto takes; nullopt when it would fail, and then `reason` says with what.
  std::optional<AccelChoice> automatic;
  std::string reason;

  bool can_run() const { return kvm_can_run || tcg_can_run; }
};

HostReport judge_host(const HostFacts& facts);

}  // namespace ktstr
