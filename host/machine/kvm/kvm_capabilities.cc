#include "host/machine/kvm/kvm_capabilities.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <array>

#include <fmt/format.h>

namespace ktstr::kvm {
namespace {

constexpr bool kRequired = true;
constexpr bool kOptional = false;

#define KTSTR_CAPABILITY(name, required, lost) \
  Capability {                                 \
    name, #name, required, lost                \
  }
constexpr std::array kCapabilities{
    KTSTR_CAPABILITY(KVM_CAP_USER_MEMORY, kRequired, "the guest cannot be given memory"),
    KTSTR_CAPABILITY(KVM_CAP_SET_TSS_ADDR, kRequired, "an Intel processor cannot start the guest"),
    KTSTR_CAPABILITY(KVM_CAP_SET_IDENTITY_MAP_ADDR, kRequired,
                     "KVM's own page on Intel processors lies in the guest's RAM"),
    KTSTR_CAPABILITY(KVM_CAP_EXT_CPUID, kRequired, "the guest cannot be shown a processor"),
    KTSTR_CAPABILITY(KVM_CAP_IRQCHIP, kRequired, "the guest has no interrupt controllers"),
    KTSTR_CAPABILITY(KVM_CAP_PIT2, kRequired, "the guest has no timer to calibrate its clock with"),
    KTSTR_CAPABILITY(KVM_CAP_IRQFD, kRequired, "devices cannot interrupt the guest"),
    KTSTR_CAPABILITY(KVM_CAP_IOEVENTFD, kRequired, "the guest cannot call devices without stopping"),
    KTSTR_CAPABILITY(KVM_CAP_IMMEDIATE_EXIT, kRequired,
                     "a vCPU that is to be frozen may slip into the guest again"),
    KTSTR_CAPABILITY(KVM_CAP_MP_STATE, kRequired, "it is not known whether a vCPU is halted"),
    KTSTR_CAPABILITY(KVM_CAP_ADJUST_CLOCK, kRequired, "the guest's clock goes on while it is frozen"),
    KTSTR_CAPABILITY(KVM_CAP_KVMCLOCK_CTRL, kOptional,
                     "a long freeze looks like a soft lock-up to the guest"),
    KTSTR_CAPABILITY(KVM_CAP_VCPU_ATTRIBUTES, kOptional,
                     "a freeze lets the guest's clock go on by microseconds"),
    KTSTR_CAPABILITY(KVM_CAP_SET_GUEST_DEBUG, kOptional,
                     "no traps by hardware breakpoints: freezes at a scheduler's exit are late"),
    KTSTR_CAPABILITY(KVM_CAP_TSC_DEADLINE_TIMER, kOptional, "the guest's timers are less exact"),
    KTSTR_CAPABILITY(KVM_CAP_SPLIT_IRQCHIP, kOptional, "no topology with APIC ids above 254"),
    KTSTR_CAPABILITY(KVM_CAP_X2APIC_API, kOptional, "no topology with APIC ids above 254"),
    KTSTR_CAPABILITY(KVM_CAP_VCPU_EVENTS, kOptional,
                     "a failure inside KVM cannot be told from one that running again mends"),
    KTSTR_CAPABILITY(KVM_CAP_DEBUGREGS, kOptional, "no debug registers in reports"),
    KTSTR_CAPABILITY(KVM_CAP_XSAVE, kOptional, "no vector registers in reports"),
    KTSTR_CAPABILITY(KVM_CAP_XCRS, kOptional, "no XCR0 in reports"),
    KTSTR_CAPABILITY(KVM_CAP_PIT_STATE2, kOptional, "no timer state in reports"),
    KTSTR_CAPABILITY(KVM_CAP_HALT_POLL, kOptional, "vCPUs that wait may spin although others need the CPU"),
    KTSTR_CAPABILITY(KVM_CAP_BINARY_STATS_FD, kOptional, "no vCPU statistics in the result"),
};
#undef KTSTR_CAPABILITY

}  // namespace

std::span<const Capability> known_capabilities() {
  return kCapabilities;
}

std::vector<CapabilityAnswer> ask_capabilities(int kvm) {
  std::vector<CapabilityAnswer> answers;
  answers.reserve(kCapabilities.size());
  for (const Capability& capability : kCapabilities) {
    const int value = ioctl(kvm, KVM_CHECK_EXTENSION, capability.number);
    answers.push_back({&capability, value < 0 ? 0 : value});
  }
  return answers;
}

std::string missing_required(std::span<const CapabilityAnswer> answers) {
  std::string missing;
  for (const CapabilityAnswer& answer : answers) {
    if (!answer.capability->required || answer.value != 0) continue;
    missing += fmt::format("{}{} (without it {})", missing.empty() ? "" : ", ", answer.capability->name,
                           answer.capability->lost_without);
  }
  return missing;
}

Expected<void> check_required(std::span<const CapabilityAnswer> answers) {
  const std::string missing = missing_required(answers);
  if (missing.empty()) return {};
  return fail(ErrorCode::kHost, "this host's KVM lacks " + missing + "; use --accel tcg");
}

}  // namespace ktstr::kvm
