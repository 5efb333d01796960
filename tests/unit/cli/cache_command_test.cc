#include "host/cli/cache_command.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/snapshot/sample_snapshot.h"

namespace ktstr::test {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

class CacheCommandTest : public testing::Test {
 protected:
  std::string run(const std::vector<std::string>& arguments) {
    CacheRequest request;
    CLI::App app;
    CLI::App* command = app.add_subcommand("cache");
    add_cache_options(*command, request);
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    reversed.emplace_back("cache");
    app.parse(reversed);
    const auto text = render_cache_command(request, cache_, now_, exit_code_);
    if (text) return *text;
    exit_code_ = static_cast<int>(text.error().code());
    return text.error().to_string();
  }

  ScratchDir scratch_;
  SnapshotCache cache_{scratch_.path("snapshots")};
  std::time_t now_ = std::time(nullptr);
  int exit_code_ = -1;
};

TEST_F(CacheCommandTest, EmptyCacheIsSaidAndIsNoError) {
  for (const char* action : {"list", "verify"}) {
    EXPECT_EQ(run({action}), "no snapshots in '" + cache_.root() + "'\n");
    EXPECT_EQ(exit_code_, 0);
  }
  EXPECT_EQ(run({"clear"}), "removed 0 snapshots, 0 B\n");
  EXPECT_EQ(nlohmann::json::parse(run({"list", "--json"}))["snapshots"].size(), 0U);
  EXPECT_EQ(run({"verify", "--json"}), "[]\n");
}

TEST_F(CacheCommandTest, ListSaysWhatEachIs) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  const auto found = cache_.find(key);
  now_ += 3 * 3600;
  EXPECT_THAT(
      run({"list"}),
      MatchesRegex("KEY         ON DISK  LAST USED     IN USE  GUEST\n" + key.substr(0, 8) +
                   " +[0-9.]+ KiB  (2|3) h ago       yes     tcg attached scx_lavd, 6.12.1-test, 1n1l2c1t\n"
                   "1 snapshot in [0-9.]+ KiB of at most 4 GiB, in .*\n"));
  const auto json = nlohmann::json::parse(run({"list", "--json"}));
  EXPECT_EQ(json["limit_bytes"], SnapshotCache::kDefaultLimit);
  const auto& one = json["snapshots"][0];
  EXPECT_EQ(one["key"], key);
  EXPECT_EQ(one["in_use"], true);
  EXPECT_EQ(one["point"], "attached");
  EXPECT_EQ(one["kernel"], "6.12.1-test");
  EXPECT_EQ(one["ram_bytes"], kSampleRam);
  EXPECT_EQ(one["inputs"][1]["name"], "kernel");
}

TEST_F(CacheCommandTest, TextOfAFileSteersNoTerminal) {
  SnapshotInputs inputs = sample_inputs();
  inputs.topology = "\x1b[31m";
  inputs.scheduler_files = {{"/bin/\x1b[0m", "1"}};
  make_snapshot(cache_, inputs);
  const std::string text = run({"list"});
  EXPECT_EQ(text.find('\x1b'), std::string::npos) << text;
}

TEST_F(CacheCommandTest, OneThatIsBeingMadeIsShown) {
  const auto begun = cache_.begin(sample_inputs());
  EXPECT_THAT(run({"list"}), HasSubstr("is making it"));
}

TEST_F(CacheCommandTest, VerifyFailsWhenOneIsDamaged) {
  const std::string good = make_snapshot(cache_, sample_inputs());
  EXPECT_EQ(run({"verify"}), good.substr(0, 8) + "  ok\n");
  EXPECT_EQ(exit_code_, 0);
  flip_byte(cache_.root() + "/" + good + "/ram", 5000);
  EXPECT_THAT(run({"verify"}), HasSubstr("was thrown away: the checksum of its ram does not match"));
  EXPECT_EQ(exit_code_, 1);
  EXPECT_EQ(run({"verify", "--json"}), "[]\n") << "it is gone";
}

TEST_F(CacheCommandTest, ClearSaysWhatStays) {
  const std::string used = make_snapshot(cache_, sample_inputs());
  make_snapshot(cache_, numbered_inputs(1));
  const auto found = cache_.find(used);
  EXPECT_THAT(run({"clear"}), MatchesRegex("removed 1 snapshot, [0-9.]+ KiB\n" + used.substr(0, 8) +
                                           " is in use and stays\n"));
  EXPECT_THAT(run({"clear", "0000"}), HasSubstr("there is no snapshot '0000'"));
  EXPECT_EQ(exit_code_, 2);
}

TEST_F(CacheCommandTest, WithoutAnActionItSaysWhichThereAre) {
  EXPECT_THAT(run({}), HasSubstr("list, clear or verify"));
  EXPECT_EQ(exit_code_, 2);
}

}  // namespace
}  // namespace ktstr::test
