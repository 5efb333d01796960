#include "host/report/dump/dump_query.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

using testing::HasSubstr;

std::string answer(const std::string& text, bool json = false) {
  const auto query = parse_query(text);
  if (!query) return query.error().to_string() + "\n" + query.error().detail();
  const auto found = run_query(sample_dump(), *query);
  if (!found) return found.error().to_string() + "\n" + found.error().detail();
  std::string result;
  DumpSink sink(DumpSink::to_string(result));
  if (json) {
    write_answer_json(*found, sink);
  } else {
    write_answer_table(*found, sink);
  }
  sink.finish();
  return result;
}

TEST(DumpQuery, SelectsRowsAndFields) {
  EXPECT_EQ(answer("tasks where where=on_dsq and waiting_ms>30 select pid,comm,dsq_name"),
            "pid  comm       dsq_name\n101  on dsq]x[  user DSQ 0x7\n");
  EXPECT_EQ(answer("tasks WHERE comm ~ \"^s[lt]\" SELECT pid , waiting_ms"),
            "pid  waiting_ms\n100  6000\n300  -\n");
  EXPECT_EQ(answer("cpus where curr.comm=runner select cpu"), "cpu\n0\n");
  EXPECT_EQ(answer("dsqs where nr>0 select id,tasks"), "id   tasks\n0x7  on dsq]x[[101]\n");
  EXPECT_EQ(answer("dsqs where id=0x8000000000000002 select index"), "index\n3\n");
  EXPECT_EQ(answer("scheds where callbacks=enqueue select name,events.SCX_EV_SELECT_CPU_FALLBACK"),
            "name  events.SCX_EV_SELECT_CPU_FALLBACK\nqmap  12\n");
  EXPECT_EQ(answer("header select hz"), "hz\n250\n");
  EXPECT_EQ(answer("cpus where runnable_list=101 and idle=false select cpu"), "cpu\n1\n");
  EXPECT_EQ(answer("tasks where sticky_cpu=-1 and pid<=100 select other.scx.new_member"),
            "other.scx.new_member\n17\n");
}

TEST(DumpQuery, WhatIsNotSetMatchesOnlyNegations) {
  EXPECT_EQ(answer("tasks where waiting_ms<=9999999 select pid"), "pid\n100\n101\n");
  EXPECT_EQ(answer("tasks where waiting_ms!=40 and pid<300 select pid"), "pid\n100\n102\n200\n");
  EXPECT_EQ(answer("tasks where comm!~\"e\" select pid"), "pid\n101\n102\n");
}

TEST(DumpQuery, RepetitionsBesideEachOther) {
  for (const char* regex : {"^s*ta*l+ed?$", "[*+?]*st", "(s|x?)t", "\\+?st", "[[:alpha:]*]+d", "[]]*t"})
    EXPECT_EQ(answer(std::string("tasks where pid=100 and comm~\"") + regex + "\" select pid"), "pid\n100\n")
        << regex;
}

TEST(DumpQuery, JsonKeepsNumbers) {
  const auto rows =
      nlohmann::json::parse(answer("tasks where pid=100 select pid,flags,where,tid,comm", true));
  EXPECT_EQ(rows, (nlohmann::json::array(
                      {{{"pid", 100}, {"flags", "0x401"}, {"where", "owned_by_bpf"}, {"comm", "stalled"}}})));
  EXPECT_EQ(answer("tasks where pid=7", true), "[]\n");
}

TEST(DumpQuery, EverySectionCanBeShown) {
  for (const char* section : {"header", "findings", "globals", "scheds", "cpus", "dsqs", "tasks", "faults",
                              "absent", "access", "enums"}) {
    EXPECT_THAT(answer(section), testing::Not(HasSubstr("column"))) << section;
  }
}

TEST(DumpQuery, Counts) {
  const auto query = parse_query("tasks where state_char=R");
  ASSERT_TRUE(query);
  EXPECT_EQ(count_query(sample_dump(), *query), 4u);
}

TEST(DumpQuery, ErrorsPointAtThePlace) {
  EXPECT_THAT(answer("task"), HasSubstr("query, column 1: a dump has no section 'task'; there are tasks,"));
  EXPECT_THAT(answer("tasks where waitin_ms>3"),
              HasSubstr("Task has no field 'waitin_ms'; there are waiting_ms,"));
  EXPECT_THAT(answer("tasks where waitin_ms>3"), HasSubstr("\n  tasks where waitin_ms>3\n              ^"));
  EXPECT_THAT(answer("cpus select curr.com"),
              HasSubstr("column 18: TaskName has no field 'com'; there are comm"));
  EXPECT_THAT(answer("tasks where pid"), HasSubstr("column 16: expected one of = != < <= > >= ~ !~"));
  EXPECT_THAT(answer("tasks where pid="), HasSubstr("expected a value"));
  EXPECT_THAT(answer("tasks where comm=\"x"),
              HasSubstr("column 18: the text that begins here has no closing quote"));
  EXPECT_THAT(answer("tasks pid"), HasSubstr("column 7: expected 'where', 'select' or the end"));
  EXPECT_THAT(answer("tasks where pid=1 or pid=2"),
              HasSubstr("column 19: expected 'and', 'select' or the end"));
  EXPECT_THAT(answer("tasks where comm>a"), HasSubstr("'comm' is no number"));
  EXPECT_THAT(answer("tasks where pid=a"), HasSubstr("'pid' is a number, 'a' is none"));
  EXPECT_THAT(answer("tasks where where=runing"), HasSubstr("where is one of unknown, running"));
  EXPECT_THAT(answer("tasks where comm~\"(\""), HasSubstr("this is no regular expression"));
  EXPECT_THAT(answer("tasks where comm~\"(a)\\1\""), HasSubstr("back references"));
  EXPECT_THAT(answer("tasks where comm~\"a{9999}\""), HasSubstr("counted repetition"));
  for (const char* regex : {"a++++++++++++++++++++++++++++++", "((((a+)+)*)+)?", "(a?b|c)*", "[]*]+*"}) {
    EXPECT_THAT(answer(std::string("tasks where comm~\"") + regex + "\""),
                HasSubstr("a repetition of what has a repetition inside"));
  }
  EXPECT_THAT(answer("tasks where comm~\"" + std::string(201, 'a') + "\""), HasSubstr("at most 200"));
  EXPECT_THAT(answer("tasks select pid.x"), HasSubstr("pid is no message"));
  EXPECT_THAT(answer(""), HasSubstr("expected a section"));
  EXPECT_THAT(answer(std::string(5000, 'x')), HasSubstr("at most 4096"));
}

}  // namespace
}  // namespace ktstr
