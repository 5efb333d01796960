#include "host/machine/host_report.h"

#include <linux/kvm.h>

#include <cerrno>

#include <gmock/gmock.h>

namespace ktstr {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kGib = std::uint64_t{1} << 30;

// A host where nothing is to be wished for.
HostFacts good_host() {
  HostFacts facts;
  facts.kernel_release = "6.12.1";
  facts.cpu_model = "A Processor";
  facts.cpu_flags = {"svm", "npt", "constant_tsc", "nonstop_tsc"};
  facts.cpus_online = facts.cpus_usable = 8;
  facts.virtualization = {.kvm_errno = 0, .kvm_api_version = 12, .cpu_has_vmx = false, .cpu_has_svm = true};
  facts.kvm.device = {.open_errno = 0,
                      .exists = true,
                      .mode = 0660,
                      .owner = "root",
                      .group = "kvm",
                      .in_group = false,
                      .user = "alice"};
  for (const kvm::Capability& capability : kvm::known_capabilities())
    facts.kvm.capabilities.push_back({&capability, 1});
  facts.kvm.max_vcpus = 4096;
  facts.kvm.modules = {"kvm", "kvm_amd"};
  facts.kvm.nested = "1";
  facts.qemu =
      Qemu{.path = "/usr/bin/qemu-system-x86_64", .version = "10.0.2", .major = 10, .firmware_folders = {}};
  facts.memory_total = 16 * kGib;
  facts.memory_available = 8 * kGib;
  facts.limits.open_files = 1024;
  facts.cgroup.version_2 = true;
  facts.cgroup.path = "/user.slice";
  facts.clock_source = "tsc";
  return facts;
}

void no_device(HostFacts& facts, int error) {
  facts.virtualization.kvm_errno = error;
  facts.virtualization.kvm_api_version = -1;
  facts.kvm.capabilities.clear();
  facts.kvm.device.open_errno = error;
  facts.kvm.device.exists = error != ENOENT;
}

void without(HostFacts& facts, int number) {
  for (auto& answer : facts.kvm.capabilities) {
    if (answer.capability->number == number) answer.value = 0;
  }
}

// The finding of that name; a made-up one when there is none.
Finding finding(const HostReport& report, std::string_view name) {
  for (const FindingGroup& group : report.groups) {
    for (const Finding& finding : group.findings) {
      if (finding.name == name) return finding;
    }
  }
  ADD_FAILURE() << "no finding " << name;
  return {};
}

std::size_t count(const HostReport& report, FindingState state) {
  std::size_t found = 0;
  for (const FindingGroup& group : report.groups) {
    for (const Finding& finding : group.findings) found += finding.state == state ? 1 : 0;
  }
  return found;
}

TEST(HostReportTest, NothingToMendOnAGoodHost) {
  const HostReport report = judge_host(good_host());
  EXPECT_EQ(count(report, FindingState::kProblem), 0);
  EXPECT_EQ(count(report, FindingState::kWarning), 0);
  EXPECT_TRUE(report.kvm_can_run);
  EXPECT_TRUE(report.tcg_can_run);
  EXPECT_EQ(report.automatic, AccelChoice::kKvm);
  EXPECT_THAT(report.host, HasSubstr("6.12.1"));
}

TEST(HostReportTest, EveryRemedyIsForSomethingToMend) {
  HostFacts facts = good_host();
  no_device(facts, ENOENT);
  facts.qemu = fail(ErrorCode::kHost, "no QEMU");
  for (const FindingGroup& group : judge_host(facts).groups) {
    for (const Finding& finding : group.findings) {
      if (finding.state == FindingState::kProblem) {
        EXPECT_FALSE(finding.remedy.empty()) << finding.name;
      }
      if (finding.state == FindingState::kGood) {
        EXPECT_THAT(finding.remedy, IsEmpty()) << finding.name;
      }
    }
  }
}

TEST(HostReportTest, SoftwareKvmMeansTcg) {
  HostFacts facts = good_host();
  facts.virtualization.cpu_has_svm = false;
  facts.cpu_flags = {"hypervisor"};
  const HostReport report = judge_host(facts);
  EXPECT_FALSE(report.kvm_can_run);
  EXPECT_EQ(report.automatic, AccelChoice::kTcg);
  EXPECT_THAT(finding(report, "virtualization").value, HasSubstr("works by software"));
  EXPECT_THAT(finding(report, "virtualization").remedy, HasSubstr("nested"));
}

TEST(HostReportTest, NoPermissionNamesTheGroup) {
  HostFacts facts = good_host();
  no_device(facts, EACCES);
  const HostReport report = judge_host(facts);
  EXPECT_EQ(finding(report, "/dev/kvm").state, FindingState::kProblem);
  EXPECT_THAT(finding(report, "/dev/kvm").value, HasSubstr("alice: it belongs to root:kvm, mode 0660"));
  EXPECT_EQ(finding(report, "/dev/kvm").remedy, "usermod -aG kvm alice, as root, then log in again");
  EXPECT_EQ(report.automatic, AccelChoice::kTcg);
}

TEST(HostReportTest, NoPermissionForAnyGroupNamesTheUdevRule) {
  HostFacts facts = good_host();
  no_device(facts, EACCES);
  facts.kvm.device.mode = 0600;
  facts.kvm.device.group = "root";
  EXPECT_THAT(finding(judge_host(facts), "/dev/kvm").remedy,
              HasSubstr("KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\" to /etc/udev/rules.d/65-kvm.rules"));
}

TEST(HostReportTest, NoDeviceNamesTheModuleOrTheFirmware) {
  HostFacts facts = good_host();
  no_device(facts, ENOENT);
  EXPECT_THAT(finding(judge_host(facts), "/dev/kvm").remedy, HasSubstr("modprobe kvm_amd"));
  facts.virtualization.cpu_has_svm = false;
  facts.virtualization.cpu_has_vmx = true;
  EXPECT_THAT(finding(judge_host(facts), "/dev/kvm").remedy, HasSubstr("modprobe kvm_intel"));
  facts.virtualization.cpu_has_vmx = false;
  EXPECT_THAT(finding(judge_host(facts), "/dev/kvm").remedy, HasSubstr("firmware"));
}

TEST(HostReportTest, AContainersDeviceRulesAreNamed) {
  HostFacts facts = good_host();
  no_device(facts, EPERM);
  EXPECT_THAT(finding(judge_host(facts), "/dev/kvm").remedy, HasSubstr("--device /dev/kvm"));
}

TEST(HostReportTest, ARequiredCapabilityIsMissedByName) {
  HostFacts facts = good_host();
  without(facts, KVM_CAP_IRQFD);
  const HostReport report = judge_host(facts);
  EXPECT_EQ(finding(report, "KVM_CAP_IRQFD").state, FindingState::kProblem);
  EXPECT_FALSE(report.kvm_can_run);
  EXPECT_TRUE(report.can_run()) << "tcg does";
  EXPECT_FALSE(report.automatic);
  EXPECT_THAT(report.reason, HasSubstr("KVM_CAP_IRQFD"));
}

TEST(HostReportTest, AnOptionalCapabilityIsAWarning) {
  HostFacts facts = good_host();
  without(facts, KVM_CAP_BINARY_STATS_FD);
  const HostReport report = judge_host(facts);
  EXPECT_EQ(finding(report, "KVM_CAP_BINARY_STATS_FD").state, FindingState::kWarning);
  EXPECT_THAT(finding(report, "KVM_CAP_BINARY_STATS_FD").value, HasSubstr("statistics"));
  EXPECT_TRUE(report.kvm_can_run);
}

TEST(HostReportTest, WithoutKvmAndQemuNothingRuns) {
  HostFacts facts = good_host();
  no_device(facts, ENOENT);
  facts.qemu = fail(ErrorCode::kHost, "no QEMU was found");
  const HostReport report = judge_host(facts);
  EXPECT_FALSE(report.can_run());
  EXPECT_FALSE(report.automatic);
  EXPECT_THAT(report.reason, HasSubstr("there is no QEMU"));
  EXPECT_THAT(finding(report, "QEMU").remedy, HasSubstr("scripts/fetch-qemu"));
}

TEST(HostReportTest, KvmDoesNotNeedQemu) {
  HostFacts facts = good_host();
  facts.qemu = fail(ErrorCode::kHost, "no QEMU was found");
  const HostReport report = judge_host(facts);
  EXPECT_TRUE(report.can_run());
  EXPECT_EQ(report.automatic, AccelChoice::kKvm);
  EXPECT_EQ(finding(report, "QEMU").state, FindingState::kWarning);
}

TEST(HostReportTest, AnOldQemuIsAWarning) {
  HostFacts facts = good_host();
  facts.qemu->major = 7;
  const HostReport report = judge_host(facts);
  EXPECT_EQ(finding(report, "threads").state, FindingState::kWarning);
  EXPECT_TRUE(report.tcg_can_run);
}

TEST(HostReportTest, TooLittleMemoryIsTheEnd) {
  for (int bound = 0; bound < 4; ++bound) {
    HostFacts facts = good_host();
    if (bound == 0) facts.memory_available = kGib / 8;
    if (bound == 1) facts.limits.address_space = kGib;
    if (bound == 2) facts.limits.file_size = 1024;
    if (bound == 3) {
      facts.cgroup.memory_max = kGib;
      facts.cgroup.memory_current = kGib + 1;  // it may be above
    }
    const HostReport report = judge_host(facts);
    EXPECT_FALSE(report.can_run()) << bound;
    EXPECT_EQ(report.reason, "too little memory") << bound;
    EXPECT_EQ(count(report, FindingState::kProblem), 1) << bound;
  }
}

TEST(HostReportTest, FewCpusAndDescriptorsAreWarnings) {
  HostFacts facts = good_host();
  facts.cgroup.cpus = 1.5;
  facts.limits.open_files = 64;
  const HostReport report = judge_host(facts);
  EXPECT_EQ(finding(report, "CPUs").state, FindingState::kWarning);
  EXPECT_THAT(finding(report, "CPUs").value, HasSubstr("1.5"));
  EXPECT_EQ(finding(report, "open files").remedy, "ulimit -n 256");
  EXPECT_TRUE(report.can_run());
}

TEST(KvmCapabilitiesTest, RequiredOnesComeFirstAndNoneTwice) {
  bool optional_seen = false;
  std::set<int> numbers;
  for (const kvm::Capability& capability : kvm::known_capabilities()) {
    EXPECT_TRUE(numbers.insert(capability.number).second) << capability.name;
    EXPECT_STRNE(capability.lost_without, "") << capability.name;
    EXPECT_FALSE(optional_seen && capability.required) << capability.name;
    optional_seen = optional_seen || !capability.required;
  }
}

TEST(KvmCapabilitiesTest, AllMissingOnesAreNamed) {
  std::vector<kvm::CapabilityAnswer> answers;
  for (const kvm::Capability& capability : kvm::known_capabilities()) answers.push_back({&capability, 0});
  const auto checked = kvm::check_required(answers);
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code(), ErrorCode::kHost);
  for (const auto& [capability, value] : answers) {
    EXPECT_EQ(checked.error().message().find(capability->name) != std::string::npos, capability->required)
        << capability->name;
  }
}

TEST(KvmCapabilitiesTest, NoKvmHasNone) {
  for (const auto& answer : kvm::ask_capabilities(-1)) EXPECT_EQ(answer.value, 0);
}

TEST(HostFactsTest, FieldsOfMeminfo) {
  constexpr std::string_view kText =
      "MemTotal:       16384 kB\nHugePages_Total:       4\nHugepagesize:       2048 kB\nOdd: x";
  EXPECT_EQ(meminfo_field(kText, "MemTotal"), 16384 * 1024);
  EXPECT_EQ(meminfo_field(kText, "HugePages_Total"), 4);
  EXPECT_EQ(meminfo_field(kText, "HugePages"), std::nullopt) << "not by a prefix";
  EXPECT_EQ(meminfo_field(kText, "Odd"), std::nullopt);
  EXPECT_EQ(meminfo_field("MemTotal: 18446744073709551615 kB", "MemTotal"), std::nullopt);
  EXPECT_EQ(meminfo_field("", "MemTotal"), std::nullopt);
}

TEST(HostFactsTest, ChosenWords) {
  EXPECT_EQ(chosen_word("always [madvise] never"), "madvise");
  EXPECT_EQ(chosen_word("]["), "");
  EXPECT_EQ(chosen_word(""), "");
}

TEST(HostFactsTest, CpuMax) {
  EXPECT_EQ(parse_cpu_max("max 100000"), std::nullopt);
  EXPECT_EQ(parse_cpu_max("150000 100000"), 1.5);
  EXPECT_EQ(parse_cpu_max("150000 0"), std::nullopt);
  EXPECT_EQ(parse_cpu_max(""), std::nullopt);
}

TEST(HostFactsTest, ThisHostHasFacts) {
  const HostFacts facts = gather_host_facts();
  EXPECT_FALSE(facts.kernel_release.empty());
  EXPECT_GT(facts.cpus_online, 0U);
  EXPECT_GT(facts.memory_total, 0U);
  EXPECT_FALSE(facts.kvm.device.user.empty());
  EXPECT_EQ(facts.kvm.capabilities.empty(), facts.virtualization.kvm_errno != 0);
}

}  // namespace
}  // namespace ktstr
