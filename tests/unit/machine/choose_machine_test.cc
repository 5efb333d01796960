#include <cerrno>

#include <gtest/gtest.h>

#include "host/machine/create.h"

namespace ktstr {
namespace {

std::string reason(const HostVirtualization& host) {
  const auto choice = choose_machine(AccelChoice::kAuto, host);
  if (!choice) return "error: " + choice.error().to_string();
  EXPECT_EQ(choice->kind, AccelChoice::kTcg);
  EXPECT_EQ(choice->reason.find('\n'), std::string::npos);
  return choice->reason;
}

TEST(ChooseMachine, AutoSaysWhyThereIsNoKvm) {
  EXPECT_EQ(reason({.kvm_errno = ENOENT}), "/dev/kvm is not there");
  EXPECT_EQ(reason({.kvm_errno = EACCES}), "/dev/kvm cannot be opened: Permission denied");
  EXPECT_EQ(reason({.kvm_api_version = -1}), "/dev/kvm does not answer");
  EXPECT_EQ(reason({.kvm_api_version = 13}), "/dev/kvm speaks API version 13, not 12");
  EXPECT_NE(reason({.kvm_api_version = 12}).find("neither vmx nor svm"), std::string::npos);
  EXPECT_EQ(reason({.kvm_api_version = 12, .cpu_has_svm = true, .kvm_lacks = "KVM_CAP_IRQFD (without it x)"}),
            "/dev/kvm lacks KVM_CAP_IRQFD (without it x)");
}

TEST(ChooseMachine, AutoTakesHardwareVirtualization) {
  for (const HostVirtualization& host : {HostVirtualization{.kvm_api_version = 12, .cpu_has_svm = true},
                                         HostVirtualization{.kvm_api_version = 12, .cpu_has_vmx = true}}) {
    const auto choice = choose_machine(AccelChoice::kAuto, host);
    ASSERT_TRUE(choice);
    EXPECT_EQ(choice->kind, AccelChoice::kKvm);
  }
}

// Also where it looks as if it could not work: the machine then says what is missing.
TEST(ChooseMachine, KvmCanBeAskedFor) {
  const auto choice = choose_machine(AccelChoice::kKvm, {.kvm_errno = EACCES});
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->kind, AccelChoice::kKvm);
  EXPECT_EQ(choice->reason, "asked for");
}

TEST(ChooseMachine, TcgCanBeAskedFor) {
  const auto choice = choose_machine(AccelChoice::kTcg, {});
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->reason, "asked for");
}

TEST(ChooseMachine, OnlyAnEmulatedOneIsDeterministic) {
  for (const AccelChoice asked : {AccelChoice::kAuto, AccelChoice::kTcg}) {
    const auto choice = choose_deterministic_machine(asked);
    ASSERT_TRUE(choice);
    EXPECT_TRUE(machine_abilities(choice->kind).instruction_clock);
  }
  const auto refused = choose_deterministic_machine(AccelChoice::kKvm);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kUsage);
  EXPECT_NE(refused.error().to_string().find("--accel kvm"), std::string::npos);
}

TEST(ChooseMachine, ThisHostCanBeProbed) {
  EXPECT_TRUE(choose_machine(AccelChoice::kAuto, probe_host_virtualization()));
}

}  // namespace
}  // namespace ktstr
