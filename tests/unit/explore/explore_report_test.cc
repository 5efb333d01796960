#include "host/explore/explore_report.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/quote.h"
#include "host/explore/signature.h"
#include "tests/unit/common/scratch_dir.h"

namespace ktstr {
namespace {

class ExploreReportTest : public testing::Test {
 protected:
  ExploreReportTest()
      : state_(ExploreState::create(scratch_.path("out"), {.argv = {"ktstr-vm"},
                                                           .run_arguments = {"--kernel=it's", "--cpus=2"},
                                                           .out = "ktstr-out",
                                                           .working_directory = "/",
                                                           .first_seed = 1})) {}
  void add(std::uint64_t seed, const std::string& signature, const std::string& folder = "") {
    const int code = signature.empty() ? 0 : 4;
    ASSERT_TRUE(state_->add({.seed = seed,
                             .exit_code = code,
                             .verdict = code == 0 ? "pass" : "scheduler-died",
                             .signature = signature,
                             .folder = folder}));
  }

  test::ScratchDir scratch_;
  Expected<ExploreState> state_;
};

TEST(ShellQuoted, OnlyWhatNeedsIt) {
  EXPECT_EQ(shell_quoted({"a", "b c", "", "it's", "$x"}), "a 'b c' '' 'it'\\''s' '$x'");
}

TEST(RerunCommand, NamesAnotherResultsFolder) {
  EXPECT_EQ(shell_quoted(rerun_command(
                {.argv = {}, .run_arguments = {"--cpus=2"}, .out = "o", .working_directory = ""}, 7)),
            "ktstr-vm run --cpus=2 --deterministic=7 --out=o");
}

TEST_F(ExploreReportTest, TheMostFrequentGroupComesFirst) {
  ASSERT_TRUE(state_) << state_.error().to_string();
  add(1, "");
  add(2, "rare");
  add(3, "often", "runs/3/x");
  add(4, "often");
  const std::string folder = state_->path().string();
  const std::string text =
      explore_summary(*state_, {.message = "", .wall = std::chrono::seconds(90), .seeds = 4});
  EXPECT_EQ(text, "     2 x " + signature_hash("often") + " often\n" +
                      "         seeds: 3 4\n"
                      "         ktstr-vm run '--kernel=it'\\''s' --cpus=2 --deterministic=3\n"
                      "         ktstr-vm replay " +
                      folder + "/runs/3/x\n" + "     1 x " + signature_hash("rare") + " rare\n" +
                      "         seeds: 2\n"
                      "         ktstr-vm run '--kernel=it'\\''s' --cpus=2 --deterministic=2\n"
                      "4 seeds, 3 failures in 2 groups; 4 in 90.0 s (all seeds done)\n"
                      "ktstr-vm explore: seeds=4 failures=3 groups=2 folder=" +
                      folder + "\n");
}

TEST_F(ExploreReportTest, TheSameAsData) {
  ASSERT_TRUE(state_);
  add(3, "often", "runs/3/x");
  const auto data = nlohmann::json::parse(
      explore_json(*state_, {.why = ExploreEnd::Why::kSignal, .message = "SIGINT", .seeds = 1}));
  EXPECT_EQ(data["seeds"], 1);
  EXPECT_EQ(data["ended"], "signal");
  EXPECT_EQ(data["exit_code"], 1);
  EXPECT_EQ(data["groups"][0]["seeds"], nlohmann::json::array({3}));
  EXPECT_EQ(data["groups"][0]["kept"][0]["replay"][1], "replay");
}

TEST_F(ExploreReportTest, NothingTestedIsInconclusive) {
  ASSERT_TRUE(state_);
  EXPECT_EQ(explore_exit_code(*state_, {}), 21);
  add(1, "");
  EXPECT_EQ(explore_exit_code(*state_, {}), 0);
}

}  // namespace
}  // namespace ktstr
