#include "host/cli/doctor_command.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

namespace ktstr {
namespace {

using testing::HasSubstr;
using testing::Not;

HostReport sample() {
  HostReport report;
  report.host = "Linux 6.12.1, A Processor";
  report.groups = {{"Hardware virtualization",
                    {{"/dev/kvm", "is not there", FindingState::kProblem, "modprobe kvm_amd"},
                     {"KVM_CAP_BINARY_STATS_FD", "missing: no statistics", FindingState::kWarning, ""}}},
                   {"Emulation", {{"QEMU", "10.0.2", FindingState::kGood, ""}}}};
  report.tcg_can_run = true;
  report.automatic = AccelChoice::kTcg;
  report.reason = "/dev/kvm is not there";
  return report;
}

TEST(DoctorCommandTest, TableNamesStatesAndRemedies) {
  EXPECT_EQ(doctor_text(sample(), 100, false),
            "Linux 6.12.1, A Processor\n"
            "\n"
            "Hardware virtualization\n"
            "  FAIL  /dev/kvm        is not there\n"
            "                        -> modprobe kvm_amd\n"
            "  warn  KVM_CAP_BINARY_STATS_FD\n"
            "                        missing: no statistics\n"
            "\n"
            "Emulation\n"
            "  ok    QEMU            10.0.2\n"
            "\n"
            "Result\n"
            "  -     --accel kvm     cannot run here\n"
            "  ok    --accel tcg     can run\n"
            "  ok    --accel auto    chooses tcg: /dev/kvm is not there\n");
}

TEST(DoctorCommandTest, LongLinesAreWrappedAndNothingIsLost) {
  HostReport report = sample();
  std::string words;
  for (int i = 0; i < 40; ++i) words += "word" + std::to_string(i) + " ";
  words += std::string(200, 'x');
  report.groups[1].findings[0].value = words;
  const std::string text = doctor_text(report, 60, false);
  for (int i = 0; i < 40; ++i) EXPECT_THAT(text, HasSubstr("word" + std::to_string(i)));
  EXPECT_THAT(text, HasSubstr(std::string(200, 'x')));
  std::size_t begin = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos;
       begin = end + 1, end = text.find('\n', begin)) {
    const std::string line = text.substr(begin, end - begin);
    if (line.find("xxx") == std::string::npos) {
      EXPECT_LE(line.size(), 60U) << line;
    }
  }
}

TEST(DoctorCommandTest, ColorsOnlyWhenWanted) {
  EXPECT_THAT(doctor_text(sample(), 100, false), Not(HasSubstr("\033")));
  EXPECT_THAT(doctor_text(sample(), 100, true), HasSubstr("\033[31mFAIL\033[0m  /dev/kvm"));
}

TEST(DoctorCommandTest, FailureOfTheAutomaticChoiceIsSaid) {
  HostReport report = sample();
  report.automatic.reset();
  EXPECT_THAT(doctor_text(report, 100, false),
              HasSubstr("FAIL  --accel auto    would fail: /dev/kvm is not there"));
}

TEST(DoctorCommandTest, Json) {
  HostFacts facts;
  facts.kernel_release = "6.12.1\xff";  // not UTF-8
  facts.kvm.capabilities.push_back({&kvm::known_capabilities().front(), 1});
  const auto json = nlohmann::json::parse(doctor_json(sample(), facts));
  EXPECT_EQ(json["can_run"], true);
  EXPECT_EQ(json["accel"]["auto"], "tcg");
  EXPECT_EQ(json["accel"]["kvm"], false);
  EXPECT_EQ(json["findings"][0]["state"], "problem");
  EXPECT_EQ(json["findings"][0]["remedy"], "modprobe kvm_amd");
  EXPECT_EQ(json["kvm_capabilities"][0]["name"], kvm::known_capabilities().front().name);
  EXPECT_EQ(json["facts"]["limit_file_size"], nullptr);
}

TEST(DoctorCommandTest, TheExitCodeTellsWhetherSomethingCanRun) {
  testing::internal::CaptureStdout();
  const int code = doctor_command({.json = true});
  const auto json = nlohmann::json::parse(testing::internal::GetCapturedStdout());
  EXPECT_EQ(code, json["can_run"] == true ? 0 : 20);
}

}  // namespace
}  // namespace ktstr
