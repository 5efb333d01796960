#include "host/machine/host_report.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/units.h"

namespace ktstr {
namespace {

using enum FindingState;

// A guest with a distribution's kernel, and what the emulator needs beside it.
constexpr std::uint64_t kLeastMemory = std::uint64_t{384} << 20;
// The same for the size of the address space: the emulator reserves 1 GiB for its translations.
constexpr std::uint64_t kLeastAddressSpace = std::uint64_t{3} << 30;
// Sockets, pipes, eventfds of one run, with room.
constexpr std::uint64_t kLeastOpenFiles = 256;
constexpr int kSafeQemu = 10;

bool has_flag(const HostFacts& facts, const char* flag) {
  return facts.cpu_flags.contains(flag);
}

// A software KVM runs when it is asked for, but not a stock kernel.
bool kvm_usable(const HostFacts& facts) {
  const HostVirtualization& host = facts.virtualization;
  return host.kvm_errno == 0 && (host.cpu_has_vmx || host.cpu_has_svm) &&
         choose_machine(AccelChoice::kKvm, host).has_value() &&
         kvm::check_required(facts.kvm.capabilities).has_value();
}

Finding judge_device(const HostFacts& facts) {
  const kvm::DeviceFile& device = facts.kvm.device;
  const auto& host = facts.virtualization;
  if (device.open_errno == 0) {
    return {"/dev/kvm", fmt::format("opens ({}:{}, mode {:04o})", device.owner, device.group, device.mode),
            kGood, ""};
  }
  return {"/dev/kvm", kvm::device_trouble(device), kProblem,
          kvm::device_remedy(device, host.cpu_has_vmx, host.cpu_has_svm)};
}

Finding judge_processor(const HostFacts& facts) {
  const auto& host = facts.virtualization;
  if (host.cpu_has_vmx) return {"virtualization", "vmx (Intel)", kGood, ""};
  if (host.cpu_has_svm) {
    const bool paging = has_flag(facts, "npt");
    return {"virtualization", paging ? "svm (AMD), nested paging" : "svm (AMD) without nested paging",
            paging ? kGood : kWarning, paging ? "" : "an old processor, or an emulated one: guests are slow"};
  }
  // Somebody else's CPU: what can be done is to be done there.
  const char* remedy = has_flag(facts, "hypervisor")
                           ? "this is a virtual machine: its host has to pass virtualization on (nested)"
                           : "switch it on in the firmware (VT-x, SVM)";
  if (host.kvm_errno == 0) {
    return {"virtualization", "neither vmx nor svm: this KVM works by software and cannot run stock kernels",
            kProblem, remedy};
  }
  return {"virtualization", "neither vmx nor svm", kProblem, remedy};
}

Finding judge_api(const HostFacts& facts) {
  constexpr int kVersion = 12;
  const int version = facts.virtualization.kvm_api_version;
  if (version == kVersion) return {"API version", "12", kGood, ""};
  return {"API version", version < 0 ? "does not answer" : fmt::to_string(version), kProblem, "12 is needed"};
}

// One line for all that are there, one for each that is not.
void judge_capabilities(const HostFacts& facts, std::vector<Finding>& findings) {
  std::vector<std::string> there;
  std::vector<Finding> missing;
  for (const auto& [capability, value] : facts.kvm.capabilities) {
    std::string name = capability->name;
    name.erase(0, std::string_view("KVM_CAP_").size());
    if (value != 0) {
      there.push_back(name);
      continue;
    }
    missing.push_back(
        {capability->name, fmt::format("missing: {}", capability->lost_without),
         capability->required ? kProblem : kWarning,
         capability->required ? "a newer host kernel, or another KVM; --accel tcg does without" : ""});
  }
  findings.push_back(
      {"capabilities",
       fmt::format("{} of {}: {}", there.size(), facts.kvm.capabilities.size(), fmt::join(there, " ")), kGood,
       ""});
  std::ranges::move(missing, std::back_inserter(findings));
}

Finding judge_modules(const HostFacts& facts) {
  const auto& modules = facts.kvm.modules;
  std::string text = modules.empty() ? "none" : fmt::format("{}", fmt::join(modules, ", "));
  // Y and 1: the parameter was a number once.
  const bool on = facts.kvm.nested.starts_with('Y') || facts.kvm.nested.starts_with('1');
  if (!facts.kvm.nested.empty()) text += on ? "; guests may run KVM too (nested)" : "; nested is off";
  return {"modules", text, kNote, ""};
}

FindingGroup judge_kvm(const HostFacts& facts) {
  FindingGroup group{"Hardware virtualization (--accel kvm)", {judge_processor(facts), judge_device(facts)}};
  if (facts.virtualization.kvm_errno == 0) {
    group.findings.push_back(judge_api(facts));
    judge_capabilities(facts, group.findings);
    group.findings.push_back({"vCPUs", fmt::format("at most {}", facts.kvm.max_vcpus), kNote, ""});
  }
  group.findings.push_back(judge_modules(facts));
  return group;
}

FindingGroup judge_qemu(const HostFacts& facts) {
  FindingGroup group{"Emulation (--accel tcg)", {}};
  if (!facts.qemu) {
    // A host with hardware virtualization can do without.
    group.findings.push_back({"QEMU", facts.qemu.error().message(), kvm_usable(facts) ? kWarning : kProblem,
                              "scripts/fetch-qemu gets one, without installing it"});
    return group;
  }
  const Qemu& qemu = *facts.qemu;
  group.findings.push_back({"QEMU", fmt::format("{} {}", qemu.version, qemu.path), kGood, ""});
  if (!qemu.multi_thread_safe()) {
    group.findings.push_back(
        {"threads", fmt::format("one for all vCPUs: QEMU {} is older than {}", qemu.major, kSafeQemu),
         kWarning, "scripts/fetch-qemu gets a newer one, without installing it"});
  }
  return group;
}

FindingGroup judge_processors(const HostFacts& facts) {
  FindingGroup group{"Processors", {}};
  const unsigned usable = facts.cpus_usable;
  std::string text = fmt::format("{} of {} usable", usable, facts.cpus_online);
  if (facts.cgroup.cpus) text += fmt::format(", the cgroup gives time for {:.2g}", *facts.cgroup.cpus);
  const bool few = usable < 2 || facts.cgroup.cpus.value_or(2) < 2;
  group.findings.push_back({"CPUs", text, few ? kWarning : kGood,
                            few ? "with more vCPUs than CPUs the guest sees stolen time" : ""});
  const bool invariant = has_flag(facts, "constant_tsc") && has_flag(facts, "nonstop_tsc");
  group.findings.push_back(
      {"TSC",
       fmt::format("{}; the host's clock source is {}", invariant ? "invariant" : "not invariant",
                   facts.clock_source.empty() ? "not known" : facts.clock_source),
       kNote, ""});
  std::vector<std::string> flags;
  for (const char* flag :
       {"hypervisor", "ept", "npt", "vgif", "x2apic", "tsc_deadline_timer", "la57", "avx2", "avx512f"}) {
    if (has_flag(facts, flag)) flags.emplace_back(flag);
  }
  group.findings.push_back(
      {"flags", flags.empty() ? "none of interest" : fmt::format("{}", fmt::join(flags, " ")), kNote, ""});
  return group;
}

std::uint64_t room_in_cgroup(const CgroupFacts& cgroup) {
  if (cgroup.memory_max == UINT64_MAX) return UINT64_MAX;
  return cgroup.memory_max - std::min(cgroup.memory_max, cgroup.memory_current);
}

bool memory_suffices(const HostFacts& facts) {
  return std::min({facts.memory_available, room_in_cgroup(facts.cgroup), facts.limits.file_size}) >=
             kLeastMemory &&
         facts.limits.address_space >= kLeastAddressSpace;
}

std::string bound_text(std::uint64_t bytes) {
  return bytes == UINT64_MAX ? "no limit" : format_size(bytes);
}

// Whole MiB: nobody needs the rest.
std::string mib_text(std::uint64_t bytes) {
  return fmt::format("{} MiB", bytes >> 20);
}

FindingGroup judge_memory(const HostFacts& facts) {
  FindingGroup group{"Memory", {}};
  const bool enough = facts.memory_available >= kLeastMemory;
  group.findings.push_back({"memory",
                            facts.memory_available == UINT64_MAX
                                ? mib_text(facts.memory_total)
                                : fmt::format("{} of {} available", mib_text(facts.memory_available),
                                              mib_text(facts.memory_total)),
                            enough ? kGood : kProblem,
                            enough ? "" : fmt::format("a guest needs some {}", mib_text(kLeastMemory))});
  const HugePages& huge = facts.huge_pages;
  std::string text =
      huge.size == 0 ? "none"
                     : fmt::format("{} of {} free, {} each", huge.free, huge.total, format_size(huge.size));
  if (!huge.transparent.empty()) text += fmt::format("; transparent: {}", huge.transparent);
  group.findings.push_back({"huge pages", text, kNote, ""});
  if (facts.limits.address_space != UINT64_MAX) {
    const bool fits = facts.limits.address_space >= kLeastAddressSpace;
    group.findings.push_back({"address space", format_size(facts.limits.address_space),
                              fits ? kNote : kProblem, fits ? "" : "ulimit -v unlimited"});
  }
  if (facts.limits.file_size != UINT64_MAX) {
    const bool fits = facts.limits.file_size >= kLeastMemory;
    group.findings.push_back({"file size", format_size(facts.limits.file_size), fits ? kNote : kProblem,
                              fits ? "" : "ulimit -f unlimited: guest RAM is a file without a name"});
  }
  group.findings.push_back({"locked memory", bound_text(facts.limits.locked_memory), kNote, ""});
  return group;
}

FindingGroup judge_limits(const HostFacts& facts) {
  FindingGroup group{"Limits", {}};
  const ProcessLimits& limits = facts.limits;
  const bool files = limits.open_files >= kLeastOpenFiles;
  const auto count = [](std::uint64_t value) {
    return value == UINT64_MAX ? "no limit" : fmt::to_string(value);
  };
  group.findings.push_back(
      {"open files",
       fmt::format("{} (hard limit: {})", count(limits.open_files), count(limits.open_files_hard)),
       files ? kGood : kWarning, files ? "" : fmt::format("ulimit -n {}", kLeastOpenFiles)});
  const CgroupFacts& cgroup = facts.cgroup;
  if (!cgroup.version_2) {
    group.findings.push_back({"cgroup", "no version 2: limits of version 1 are not looked at", kNote, ""});
  } else if (cgroup.memory_max == UINT64_MAX) {
    group.findings.push_back({"cgroup", cgroup.path + ", no memory limit of version 2", kNote, ""});
  } else {
    const bool enough = room_in_cgroup(cgroup) >= kLeastMemory;
    group.findings.push_back({"cgroup",
                              fmt::format("{}: {} of {} memory used", cgroup.path,
                                          mib_text(cgroup.memory_current), mib_text(cgroup.memory_max)),
                              enough ? kGood : kProblem,
                              enough ? "" : "raise memory.max of this cgroup or of its parents"});
  }
  return group;
}

}  // namespace

const char* finding_state_name(FindingState state) {
  constexpr std::array kNames{"good", "note", "warning", "problem"};
  return kNames.at(static_cast<std::size_t>(state));
}

HostReport judge_host(const HostFacts& facts) {
  HostReport report;
  report.host = fmt::format("Linux {}, {}", facts.kernel_release,
                            facts.cpu_model.empty() ? "unknown processor" : facts.cpu_model);
  report.groups = {judge_kvm(facts), judge_qemu(facts), judge_processors(facts), judge_memory(facts),
                   judge_limits(facts)};
  const bool memory = memory_suffices(facts);
  report.kvm_can_run = memory && kvm_usable(facts);
  report.tcg_can_run = memory && facts.qemu.has_value();
  const auto choice = choose_machine(AccelChoice::kAuto, facts.virtualization);
  if (!choice) {
    report.reason = choice.error().message();
    return report;
  }
  report.reason = choice->reason;
  const bool runs = choice->kind == AccelChoice::kKvm ? report.kvm_can_run : report.tcg_can_run;
  if (runs) {
    report.automatic = choice->kind;
  } else if (!memory) {
    report.reason = "too little memory";
  } else if (choice->kind == AccelChoice::kKvm) {
    // The choice looks at the processor and the device, not at capabilities.
    const auto capable = kvm::check_required(facts.kvm.capabilities);
    if (!capable) report.reason = capable.error().message();
  } else {
    report.reason += "; and there is no QEMU";
  }
  return report;
}

}  // namespace ktstr
