#include "host/explore/explore_state.h"

#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "tests/unit/common/scratch_dir.h"

namespace ktstr {
namespace {

class ExploreStateTest : public testing::Test {
 protected:
  ExploreHeader header() const {
    return {.argv = {"ktstr-vm", "explore", "a b"},
            .run_arguments = {"--kernel=k \"q\""},
            .out = "ktstr-out",
            .working_directory = "/tmp",
            .first_seed = 5,
            .seeds = 10,
            .budget_ns = 7};
  }
  // A new exploration with one pass and one failure; its folder.
  std::filesystem::path make() {
    auto state = ExploreState::create(scratch_.path("out"), header());
    EXPECT_TRUE(state) << state.error().to_string();
    EXPECT_TRUE(state->add({.seed = 5, .verdict = "pass", .signature = "", .folder = "", .guest_ns = 1}));
    EXPECT_TRUE(state->add(failure(6)));
    return state->path();
  }
  static SeedRecord failure(std::uint64_t seed) {
    return {
        .seed = seed, .exit_code = 4, .verdict = "scheduler-died", .signature = "died", .folder = "runs/6/x"};
  }
  static std::string journal(const std::filesystem::path& folder) {
    std::ostringstream text;
    text << std::ifstream(folder / "explore.jsonl").rdbuf();
    return text.str();
  }
  static void write_journal(const std::filesystem::path& folder, const std::string& text) {
    std::ofstream(folder / "explore.jsonl", std::ios::trunc) << text;
  }
  static std::string resume_error(const std::filesystem::path& folder) {
    auto state = ExploreState::resume(folder);
    return state ? "resumed" : state.error().to_string();
  }

  test::ScratchDir scratch_;
};

TEST_F(ExploreStateTest, ResumingGivesEverythingBack) {
  const auto folder = make();
  EXPECT_TRUE(folder.filename().string().ends_with("-explore"));
  auto state = ExploreState::resume(folder);
  ASSERT_TRUE(state) << state.error().to_string();
  EXPECT_EQ(state->header(), header());
  EXPECT_EQ(state->findings().seeds(), 2U);
  ASSERT_EQ(state->findings().group_count(), 1U);
  EXPECT_EQ(state->findings().groups()[0]->kept.front(), failure(6));
  EXPECT_EQ(state->seed_folder(7), folder / "runs" / "7");
}

TEST_F(ExploreStateTest, ATornLastLineIsOverwritten) {
  const auto folder = make();
  const std::string whole = journal(folder);
  write_journal(folder, whole + R"({"seed":7,"exit":0,"verd)");
  {
    auto state = ExploreState::resume(folder);
    ASSERT_TRUE(state) << state.error().to_string();
    EXPECT_FALSE(state->findings().knows(7));
    EXPECT_TRUE(state->add({.seed = 8, .verdict = "pass", .signature = "", .folder = ""}));
  }
  EXPECT_TRUE(journal(folder).starts_with(whole + "{\"seed\":8,"));
  EXPECT_TRUE(ExploreState::resume(folder));
}

TEST_F(ExploreStateTest, EveryCutOfTheJournalIsATornLineOrNoHeader) {
  const auto folder = make();
  const std::string whole = journal(folder);
  const std::size_t header_end = whole.find('\n') + 1;
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    write_journal(folder, whole.substr(0, size));
    EXPECT_EQ(ExploreState::resume(folder).has_value(), size >= header_end) << size;
  }
}

TEST_F(ExploreStateTest, OtherDamageNamesTheLine) {
  const auto folder = make();
  const std::string whole = journal(folder);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    write_journal(folder, text);
    return resume_error(folder);
  };
  EXPECT_NE(with("{\"seed\":5", "seed:5").find("explore.jsonl:2: damaged journal: this is no JSON object"),
            std::string::npos);
  EXPECT_NE(with("\"died\"", "\"dead\"").find("explore.jsonl:3: damaged journal: 'signature'"),
            std::string::npos);
  EXPECT_NE(with("\"seed\":6", "\"seed\":5").find(":3: damaged journal: seed 5 is there already"),
            std::string::npos);
  EXPECT_NE(with("\"seed\":6", "\"seed\":-6").find(":3: damaged journal: 'seed'"), std::string::npos);
  EXPECT_NE(with("runs/6/x", "../../../x").find(":3: damaged journal: 'folder'"), std::string::npos);
  EXPECT_NE(with("runs/6/x", "/etc").find(":3: damaged journal: 'folder'"), std::string::npos);
  EXPECT_NE(with("\"exit\":4", "\"exit\":400").find(":3: damaged journal: 'exit'"), std::string::npos);
  EXPECT_NE(with("\"exit\":4", "\"exit\":0").find(":3: damaged journal: 'text'"), std::string::npos);
  EXPECT_NE(with("\"version\":1", "\"version\":2").find(":1: damaged journal: it is of another version"),
            std::string::npos);
  EXPECT_NE(with("\"first_seed\":5,", "").find(":1: damaged journal: 'first_seed'"), std::string::npos);
  write_journal(folder, whole + "\n" + "{}\n");
  EXPECT_NE(resume_error(folder).find("explore.jsonl:4: damaged"), std::string::npos);
}

TEST_F(ExploreStateTest, ALineWithoutEndIsNotReadForEver) {
  const auto folder = make();
  write_journal(folder, journal(folder) + std::string(ExploreState::kMaxLine + (1U << 20), 'x'));
  EXPECT_NE(resume_error(folder).find("explore.jsonl:4: the line is longer"), std::string::npos);
}

TEST_F(ExploreStateTest, OnlyOneProcessExplores) {
  const auto folder = make();
  const auto first = ExploreState::resume(folder);
  ASSERT_TRUE(first);
  EXPECT_NE(resume_error(folder).find("another ktstr-vm explores in"), std::string::npos);
}

TEST_F(ExploreStateTest, FoldersThatAreNone) {
  auto missing = ExploreState::resume(scratch_.path("missing"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::kUsage);
  std::filesystem::create_directory(scratch_.path("empty"));
  EXPECT_NE(resume_error(scratch_.path("empty")).find("is no folder of an exploration"), std::string::npos);
}

TEST_F(ExploreStateTest, ArgumentsMustBeText) {
  ExploreHeader bad = header();
  bad.run_arguments = {"--kernel=\xff"};
  auto state = ExploreState::create(scratch_.path("out"), bad);
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code(), ErrorCode::kUsage);
  EXPECT_FALSE(std::filesystem::exists(scratch_.path("out")));
}

}  // namespace
}  // namespace ktstr
