#include "host/report/dump/dump_diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

using testing::HasSubstr;

std::string text_of(const ktstr::v1::Dump& before, const ktstr::v1::Dump& after) {
  std::string text;
  DumpSink sink(DumpSink::to_string(text));
  write_diff_text(diff_dumps(before, after), sink);
  sink.finish();
  return text;
}

TEST(DumpDiff, ADumpIsEqualToItself) {
  EXPECT_EQ(text_of(sample_dump(), sample_dump()), "no difference\n");
}

TEST(DumpDiff, SaysWhatChangedWhere) {
  ktstr::v1::Dump before = sample_dump();
  before.mutable_scheds(0)->add_cpus()->set_cpus_to_wait("");
  ktstr::v1::Dump after = before;
  after.mutable_scheds(0)->mutable_cpus(0)->set_cpus_to_wait("2");
  after.mutable_tasks(0)->set_where(ktstr::v1::Task::RUNNING);
  after.mutable_tasks(0)->clear_waiting_ms();
  after.mutable_tasks(1)->set_nvcsw(13);
  after.mutable_tasks(4)->set_comm("renamed");
  after.mutable_dsqs(0)->set_seq(60);
  after.mutable_dsqs(0)->mutable_tasks(0)->set_pid(102);
  after.mutable_cpus(1)->add_runnable_list(7);
  (*after.mutable_scheds(0)->mutable_events())["SCX_EV_SELECT_CPU_FALLBACK"] = 20;
  const std::string text = text_of(before, after);
  EXPECT_THAT(text, HasSubstr("  stalled[100]  where: owned_by_bpf -> running; waiting_ms: 6000 -> -\n"));
  EXPECT_THAT(text, HasSubstr("nvcsw: 10 -> 13 (+3)"));
  EXPECT_THAT(text, HasSubstr("+ renamed[300]\n"));
  EXPECT_THAT(text, HasSubstr("- sleeper[300]\n"));
  EXPECT_THAT(
      text,
      HasSubstr("user DSQ 0x7  seq: 55 -> 60 (+5); tasks out: on dsq]x[[101]; tasks in: on dsq]x[[102]\n"));
  EXPECT_THAT(text, HasSubstr("CPU 1  runnable_list in: 7\n"));
  EXPECT_THAT(text, HasSubstr("cpus[0].cpus_to_wait: 2"));
  EXPECT_THAT(text, HasSubstr("events.SCX_EV_SELECT_CPU_FALLBACK: 12 -> 20 (+8)"));
}

TEST(DumpDiff, JsonHasTheSame) {
  ktstr::v1::Dump after = sample_dump();
  after.mutable_tasks(0)->set_where(ktstr::v1::Task::RUNNING);
  std::string text;
  DumpSink sink(DumpSink::to_string(text));
  write_diff_json(diff_dumps(sample_dump(), after), sink);
  sink.finish();
  const auto all = nlohmann::json::parse(text);
  EXPECT_EQ(all["tasks"]["unchanged"], 4);
  EXPECT_EQ(all["tasks"]["changes"][0]["fields"]["where"], (nlohmann::json{"owned_by_bpf", "running"}));
  EXPECT_TRUE(all["cpus"]["changes"].empty());
}

}  // namespace
}  // namespace ktstr
