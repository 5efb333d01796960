// What this program wants of a KVM beyond its API version, by name: which capabilities a machine cannot do
// without, and what is lost without each of the others. The machine checks them before it makes anything, so
// that a KVM that lacks one is reported by that name and not by a call that fails later; `ktstr-vm doctor`
// prints the same list.
//
// Facts: Documentation/virt/kvm/api.rst, KVM_CHECK_EXTENSION (4.4) and the "Capability:" lines of the calls.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "common/error.h"

namespace ktstr::kvm {

struct Capability {
  int number = 0;                      // KVM_CAP_...
  const char* name = "";               // "KVM_CAP_IRQCHIP"
  bool required = false;               // no kvm machine without it
  const char* lost_without = nullptr;  // what then does not work, as the end of "without it ..."
};

// Every capability that is asked for, required ones first.
std::span<const Capability> known_capabilities();

struct CapabilityAnswer {
  const Capability* capability = nullptr;  // lives as long as the program
  int value = 0;                           // of KVM_CHECK_EXTENSION; 0: not there
};

// Asks a descriptor of /dev/kvm, or of a VM (which may answer less), for all of them. A call that fails
// counts as 0.
std::vector<CapabilityAnswer> ask_capabilities(int kvm);

// Every required capability with the value 0, by name, with what it is for: "KVM_CAP_IRQCHIP (without it
// ...)"; empty when none is missing.
std::string missing_required(std::span<const CapabilityAnswer> answers);

// Error kHost that names every required capability with the value 0, and what each is for.
Expected<void> check_required(std::span<const CapabilityAnswer> answers);

}  // namespace ktstr::kvm
