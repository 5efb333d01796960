// What KVM_GET_SUPPORTED_CPUID answers on several hosts, for tests.
#pragma once

#include <linux/kvm.h>

#include <string>
#include <vector>

namespace ktstr::kvm::testing {

struct CpuidHost {
  std::string name;
  std::vector<kvm_cpuid_entry2> supported;
};

// Recorded: a Sapphire Rapids cloud machine, nested. Its list ends below leaf 0x1F.
CpuidHost sapphire_rapids();
// The same with a list up to leaf 0x20, as KVM on the bare machine has it.
CpuidHost sapphire_rapids_with_leaf_1f();
// An Intel CPU whose list has no L3 and one with no caches at all.
CpuidHost intel_without_l3();
CpuidHost intel_without_caches();
// Put together from the processors' documented leaves, in the form of KVM's list.
CpuidHost naples();  // family 17h model 1, Zen: its LLC is guessed by Linux
CpuidHost milan();   // family 19h model 1, Zen 3
CpuidHost genoa();   // family 19h model 11h, Zen 4, with leaf 0x80000026 in the list
CpuidHost dhyana();  // Hygon, family 18h
// What QEMU's emulated AMD CPUs give a nested host: no L3, no topology extensions, old family.
CpuidHost emulated_amd();

std::vector<CpuidHost> all_hosts();

// This machine's own list; empty where there is no /dev/kvm.
std::vector<kvm_cpuid_entry2> own_list();

}  // namespace ktstr::kvm::testing
