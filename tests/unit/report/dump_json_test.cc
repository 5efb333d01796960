#include "host/report/dump/dump_json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "host/report/dump/safe_text.h"
#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

using nlohmann::json;

std::string text_of(const ktstr::v1::Dump& dump) {
  std::string text;
  DumpSink sink(DumpSink::to_string(text));
  write_dump_json(dump, sink);
  EXPECT_EQ(sink.finish(), 0);
  return text;
}

std::string quoted(std::string_view text) {
  std::string result;
  DumpSink sink(DumpSink::to_string(result));
  put_json_string(sink, text);
  sink.finish();
  return result;
}

TEST(DumpJson, KeepsNamesNumbersAndAddresses) {
  const json all = json::parse(text_of(sample_dump()));
  const json& task = all["tasks"][0];
  EXPECT_EQ(task["pid"], 100);
  EXPECT_EQ(task["address"], "0xffff888000064000");
  EXPECT_EQ(task["where"], "owned_by_bpf");
  EXPECT_EQ(task["flags"], "0x401");
  EXPECT_EQ(task["flags_names"], (json{"SCX_TASK_QUEUED", "SCX_TASK_ENABLED"}));
  EXPECT_EQ(task["waiting_ms"], 6000);
  EXPECT_EQ(task["other"], (json{{"scx.new_member", "17"}}));
  EXPECT_EQ(all["scheds"][0]["events"]["SCX_EV_DISPATCH_KEEP_LAST"], 18446744073709551615u);
  EXPECT_EQ(all["globals"]["scx_enable_state_var_names"], json{"SCX_ENABLED"});
}

TEST(DumpJson, LeavesOutWhatIsNotSetButNotZero) {
  const json all = json::parse(text_of(sample_dump()));
  const json& task = all["tasks"][3];
  EXPECT_FALSE(task.contains("tid"));
  EXPECT_FALSE(task.contains("waiting_ms"));
  EXPECT_FALSE(task.contains("stack"));
  EXPECT_EQ(task["dsq"], "0x0");
  EXPECT_EQ(all["cpus"][2]["cpus_to_kick"], "");
  // A kernel that has this mask elsewhere.
  EXPECT_FALSE(all["cpus"][2].contains("cpus_to_wait"));
  EXPECT_FALSE(all["cpus"][2].contains("deferred_reenq_users"));
}

TEST(DumpJson, TextOfTheGuestCannotBreakOut) {
  const std::string text = text_of(sample_dump());
  const json all = json::parse(text);
  EXPECT_EQ(all["tasks"][2]["comm"], "bad\u00ff\x1b[31m\u00e9");
  EXPECT_NE(text.find("bad\\u00ff\\u001b[31m\xc3\xa9"), std::string::npos);
  EXPECT_EQ(quoted("a\"\\\n\t\x7f\xc2\x85\xed\xa0\x80"), R"("a\"\\\n\t\u007f\u0085\u00ed\u00a0\u0080")");
  EXPECT_EQ(quoted("\xf4\x90\x80\x80"), R"("\u00f4\u0090\u0080\u0080")");
  EXPECT_EQ(quoted("\xf0\x9f\x98\x80\xc3"), "\"\xf0\x9f\x98\x80\\u00c3\"");
}

TEST(DumpJson, OneTaskIsOneLineAndTheOrderIsFixed) {
  const std::string text = text_of(sample_dump(10));
  EXPECT_EQ(text, text_of(sample_dump(10)));
  std::size_t lines = 0;
  for (std::size_t at = 0; (at = text.find("\n    {\"address\":\"0xffff888", at)) != std::string::npos; ++at)
    ++lines;
  EXPECT_EQ(lines, 5u + 10u + 1u);  // tasks and the scheduler
  EXPECT_LT(text.find("SCX_EV_DISPATCH_KEEP_LAST"), text.find("SCX_EV_SELECT_CPU_FALLBACK"));
}

TEST(DumpJson, AWriteErrorIsKept) {
  int calls = 0;
  DumpSink sink([&](std::string_view) {
    ++calls;
    return ENOSPC;
  });
  write_dump_json(sample_dump(1000), sink);
  EXPECT_EQ(sink.finish(), ENOSPC);
  EXPECT_EQ(calls, 1);
}

TEST(SafeText, MadeValidItGivesTheSameJson) {
  ktstr::v1::Dump dump = sample_dump();
  const json before = json::parse(text_of(dump));
  make_strings_valid(dump);
  EXPECT_EQ(dump.tasks(2).comm(), "bad\u00ff\x1b[31m\u00e9");
  EXPECT_EQ(json::parse(text_of(dump)), before);
}

}  // namespace
}  // namespace ktstr
