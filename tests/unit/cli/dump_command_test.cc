#include "host/cli/dump_command.h"

#include <cstdlib>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/report/dump/dump_file.h"
#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class DumpCommandTest : public testing::Test {
 protected:
  DumpCommandTest() {
    std::string name = (fs::temp_directory_path() / "ktstr-dump-cli-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    ktstr::v1::Dump dump = sample_dump();
    one_ = write_dump(folder_.string(), 1, dump)->pb;
    dump.mutable_tasks(0)->set_waiting_ms(7000);
    two_ = write_dump(folder_.string(), 2, dump)->json;
  }
  ~DumpCommandTest() override { fs::remove_all(folder_); }

  // What is printed, or the error.
  static std::string run(std::vector<std::string> words) {
    DumpRequest request;
    CLI::App app;
    add_dump_options(app, request);
    std::vector<const char*> argv = {"dump"};
    for (const std::string& word : words) argv.push_back(word.c_str());
    try {
      app.parse(static_cast<int>(argv.size()), argv.data());
    } catch (const CLI::ParseError& error) {
      return std::string("parse: ") + error.what();
    }
    std::string text;
    DumpSink sink(DumpSink::to_string(text));
    const auto done = render_dump_command(request, sink);
    sink.finish();
    return done ? text
                : fmt::format("{}: {}", static_cast<int>(done.error().code()), done.error().to_string());
  }

  fs::path folder_;
  std::string one_;
  std::string two_;
};

TEST_F(DumpCommandTest, Show) {
  EXPECT_THAT(run({"show", one_}), HasSubstr("Sleeping: 1\n  sleeper[300]\n"));
  EXPECT_THAT(run({"show", one_, "--all"}), HasSubstr("scx.new_member = 17"));
  EXPECT_THAT(run({"show", two_, "--json"}), StartsWith("{\n  \"header\": {"));
}

TEST_F(DumpCommandTest, ShowOneObject) {
  EXPECT_THAT(run({"show", one_, "--task", "100"}), StartsWith("  R stalled[100] *root"));
  EXPECT_THAT(run({"show", one_, "--cpu", "1"}), StartsWith("CPU 1   : nr_run=2"));
  EXPECT_THAT(run({"show", one_, "--dsq", "0x7"}), StartsWith("user DSQ 0x7 id=0x7"));
  EXPECT_THAT(run({"show", one_, "--task", "100", "--json"}),
              StartsWith("{\"address\":\"0xffff888000064000\""));
  EXPECT_THAT(run({"show", one_, "--task", "5"}), StartsWith("2: the dump has no task with pid 5"));
  EXPECT_THAT(run({"show", one_, "--dsq", "x"}), StartsWith("2: 'x' is no DSQ id"));
}

TEST_F(DumpCommandTest, Diff) {
  EXPECT_EQ(run({"diff", one_, two_}), "tasks (4 unchanged)\n  stalled[100]  waiting_ms: 6000 -> 7000\n");
  EXPECT_THAT(run({"diff", one_, two_, "--json"}), HasSubstr("\"waiting_ms\":[\"6000\",\"7000\"]"));
  EXPECT_THAT(run({"diff", one_, "/nonexistent.pb"}), StartsWith("2: cannot open"));
}

TEST_F(DumpCommandTest, Query) {
  EXPECT_EQ(run({"query", one_, "tasks where where=on_dsq select pid"}), "pid\n101\n");
  EXPECT_EQ(run({"query", one_, "tasks", "--count"}), "5\n");
  EXPECT_EQ(run({"query", one_, "tasks where pid=100 select pid", "--json"}), "[\n  {\"pid\":100}\n]\n");
  EXPECT_THAT(run({"query", one_, "taks"}),
              StartsWith("2: query, column 1: a dump has no section 'taks'; there are tasks"));
}

TEST_F(DumpCommandTest, WithoutACommandItSaysWhichThereAre) {
  EXPECT_THAT(run({}), StartsWith("2: dump needs to know what to do: show, diff or query"));
  EXPECT_THAT(run({"show"}), StartsWith("parse: "));
}

}  // namespace
}  // namespace ktstr
