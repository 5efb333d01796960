#include <cstdlib>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "host/report/json_writer.h"
#include "host/report/summary.h"
#include "host/report/verdict_text.h"
#include "proto/frames.pb.h"
#include "proto/result.pb.h"

namespace ktstr {
namespace {

using ktstr::v1::RunResult;

TEST(JsonWriter, LargeNumbersStayNumbersAndEnumsAreWords) {
  RunResult result;
  result.set_verdict(ktstr::v1::SCHEDULER_DIED);
  result.mutable_host()->set_wall_ns(18446744073709551615ULL);
  const auto json = nlohmann::json::parse(to_json(result));
  EXPECT_EQ(json["verdict"], "scheduler_died");
  EXPECT_TRUE(json["host"]["wall_ns"].is_number_unsigned());
  EXPECT_EQ(json["host"]["wall_ns"].get<std::uint64_t>(), 18446744073709551615ULL);
}

TEST(JsonWriter, DefaultsAreWrittenAbsentThingsAreNot) {
  const auto json = nlohmann::json::parse(to_json(RunResult()));
  EXPECT_EQ(json["exit_code"], 0);
  EXPECT_FALSE(json.contains("guest"));
  EXPECT_FALSE(json.contains("reasons"));
}

TEST(JsonWriter, InvalidUtf8IsReplacedAndBytesAreBase64) {
  ktstr::v1::Frame frame;
  frame.mutable_output()->set_data(std::string("\x00\xff\x10z", 4));
  EXPECT_EQ(nlohmann::json::parse(to_json(frame))["output"]["data"], "AP8Qeg==");
  RunResult result;
  result.add_reasons()->set_text("bad \xff byte");
  EXPECT_FALSE(nlohmann::json::parse(to_json(result), nullptr, false).is_discarded());
}

TEST(VerdictText, PlainExitCodesAreTheVerdictsNumbers) {
  EXPECT_EQ(exit_code(ktstr::v1::PASS, false, false, false), 0);
  EXPECT_EQ(exit_code(ktstr::v1::USAGE, false, false, false), 2);
  EXPECT_EQ(exit_code(ktstr::v1::NO_BOOT, false, false, false), 10);
  EXPECT_EQ(exit_code(ktstr::v1::INCONCLUSIVE, false, false, true), 21);
}

TEST(VerdictText, BisectKnowsFourCodesOnly) {
  struct Row {
    ktstr::v1::Verdict verdict;
    int code;
  };
  for (const Row& row :
       {Row{ktstr::v1::PASS, 0}, Row{ktstr::v1::FAIL, 1}, Row{ktstr::v1::USAGE, 128},
        Row{ktstr::v1::KERNEL_PANIC, 1}, Row{ktstr::v1::SCHEDULER_DIED, 1}, Row{ktstr::v1::TIMEOUT, 1},
        Row{ktstr::v1::NO_BOOT, 125}, Row{ktstr::v1::KERNEL_LACKS, 125}, Row{ktstr::v1::START_FAILED, 125},
        Row{ktstr::v1::HOST_TROUBLE, 125}, Row{ktstr::v1::INCONCLUSIVE, 125}}) {
    EXPECT_EQ(exit_code(row.verdict, true, false, false), row.code) << verdict_name(row.verdict);
  }
  EXPECT_EQ(exit_code(ktstr::v1::NO_BOOT, true, true, false), 1);
  EXPECT_EQ(exit_code(ktstr::v1::INCONCLUSIVE, true, false, true), 128);
}

TEST(VerdictText, FinalLineHasAllKeysAlways) {
  EXPECT_EQ(final_line(RunResult(), ""), "ktstr-vm: verdict=pass reason=- kernel=- buildid=- result=-");
  RunResult result;
  result.set_verdict(ktstr::v1::SCHEDULER_DIED);
  result.add_reasons()->set_kind("scheduler-exit");
  result.mutable_plan()->mutable_kernel()->set_release("7.2");
  result.mutable_plan()->mutable_kernel()->set_build_id("ab");
  EXPECT_EQ(
      final_line(result, "/a b/result.json"),
      "ktstr-vm: verdict=scheduler-died reason=scheduler-exit kernel=7.2 buildid=ab result=/a b/result.json");
}

TEST(Summary, TimesHaveThreeDigits) {
  EXPECT_EQ(short_time(0), "0 ns");
  EXPECT_EQ(short_time(999), "999 ns");
  EXPECT_EQ(short_time(1500), "1.50 us");
  EXPECT_EQ(short_time(12'345'678), "12.3 ms");
  EXPECT_EQ(short_time(123'400'000'000), "123 s");
}

TEST(Summary, NamesVerdictReasonAndWorkersWithoutAReport) {
  RunResult result;
  result.set_verdict(ktstr::v1::FAIL);
  auto* reason = result.add_reasons();
  reason->set_kind("starved");
  reason->set_text("worker 3 of cgroup 'a' did nothing");
  reason->set_step("one");
  auto* step = result.mutable_guest()->add_steps();
  step->set_name("one");
  step->add_cgroups()->add_workers();
  const std::string text = summary(result, "/r/result.json", false);
  EXPECT_TRUE(text.starts_with("FAIL")) << text;
  EXPECT_NE(text.find("starved (step 'one'): worker 3"), std::string::npos) << text;
  EXPECT_NE(text.find("1 without a report"), std::string::npos) << text;
  EXPECT_NE(text.find("/r/result.json"), std::string::npos) << text;
}

TEST(Summary, WaitingForHostCpusIsSaidWhenItIsRemarkable) {
  RunResult result;
  auto* vcpu = result.mutable_host()->mutable_statistics()->add_vcpus();
  vcpu->set_ran_ns(10000000000);
  vcpu->set_waited_ns(2400000000);
  EXPECT_EQ(summary(result, "", false).find("waited"), std::string::npos);
  *result.mutable_host()->mutable_statistics()->add_vcpus() = *vcpu;
  result.mutable_host()->mutable_statistics()->mutable_vcpus(1)->set_waited_ns(3000000000);
  EXPECT_NE(summary(result, "", false).find("the vCPUs ran for 20.0 s and waited 5.40 s for a host CPU\n"),
            std::string::npos);
  result.mutable_host()->set_overcommitted(true);
  EXPECT_NE(summary(result, "", false).find("they are more than the host has"), std::string::npos);
}

TEST(Summary, AShortWaitIsNothing) {
  RunResult result;
  auto* vcpu = result.mutable_host()->mutable_statistics()->add_vcpus();
  vcpu->set_ran_ns(100000000);
  vcpu->set_waited_ns(900000000);
  EXPECT_EQ(summary(result, "", false).find("waited"), std::string::npos);
}

}  // namespace
}  // namespace ktstr
