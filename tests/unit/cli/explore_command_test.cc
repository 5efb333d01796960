#include "host/cli/explore_command.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/unit/common/scratch_dir.h"

namespace ktstr {
namespace {

class ExploreCommandTest : public testing::Test {
 protected:
  ExploreCommandTest() : before_(std::filesystem::current_path()) {
    program_ = scratch_.file("fake", "#!/bin/sh\nexit 5\n");
    std::filesystem::permissions(program_, std::filesystem::perms::owner_all);
    request_.run.kernel = "bzImage";
    request_.run.out = scratch_.path("out");
    request_.jobs = 1;
  }
  // Resuming changes it.
  ~ExploreCommandTest() override { std::filesystem::current_path(before_); }

  // Exit code; what was said on standard error is in said_.
  int explore() {
    testing::internal::CaptureStderr();
    testing::internal::CaptureStdout();
    const int code = explore_command(request_, program_);
    printed_ = testing::internal::GetCapturedStdout();
    said_ = testing::internal::GetCapturedStderr();
    return code;
  }
  void expect_usage(const std::string& words) {
    EXPECT_EQ(explore(), 2);
    EXPECT_NE(said_.find(words), std::string::npos) << said_;
    EXPECT_FALSE(std::filesystem::exists(scratch_.path("out"))) << "a usage error leaves nothing behind";
  }
  std::string only_folder() const {
    return std::filesystem::directory_iterator(scratch_.path("out"))->path().string();
  }

  std::filesystem::path before_;
  test::ScratchDir scratch_;
  std::string program_;
  ExploreRequest request_;
  std::string said_;
  std::string printed_;
};

TEST_F(ExploreCommandTest, NeedsAnEnd) {
  expect_usage("give --seeds N, --budget TIME");
}

TEST_F(ExploreCommandTest, NeedsAKernel) {
  request_.seeds = 1;
  request_.run.kernel.clear();
  expect_usage("--kernel is missing");
}

TEST_F(ExploreCommandTest, VariesTheSeedItself) {
  request_.seeds = 1;
  request_.run.seed = "1";
  expect_usage("--first-seed");
}

TEST_F(ExploreCommandTest, OptionsThatMakeNoSense) {
  request_.seeds = 1;
  request_.run.bisect = true;
  expect_usage("--bisect");
  request_.run.bisect = false;
  request_.run.explain = true;
  expect_usage("--explain");
}

TEST_F(ExploreCommandTest, NumbersAndTimesAreChecked) {
  request_.seeds = 2;
  request_.first_seed = UINT64_MAX;
  expect_usage("beyond 64 bits");
  request_.first_seed.reset();
  request_.budget = "soon";
  expect_usage("--budget");
  request_.budget = "0s";
  expect_usage("--budget");
}

TEST_F(ExploreCommandTest, ExploresAndResumes) {
  request_.seeds = 2;
  request_.first_seed = UINT64_MAX - 3;
  EXPECT_EQ(explore(), 1) << said_;
  const std::string folder = only_folder();
  EXPECT_TRUE(printed_.ends_with("ktstr-vm explore: seeds=2 failures=2 groups=1 folder=" + folder + "\n"))
      << printed_;
  EXPECT_TRUE(std::filesystem::exists(folder + "/explore.json"));

  request_ = {};
  request_.resume = folder;
  EXPECT_EQ(explore(), 1) << said_;
  EXPECT_NE(printed_.find("seeds=2 "), std::string::npos) << printed_;
  request_.seeds = 4;
  EXPECT_EQ(explore(), 1) << said_;
  EXPECT_NE(printed_.find("seeds=4 "), std::string::npos) << printed_;
}

TEST_F(ExploreCommandTest, ResumingTakesNoOtherOptions) {
  request_.seeds = 1;
  EXPECT_EQ(explore(), 1) << said_;
  request_.resume = only_folder();
  EXPECT_EQ(explore(), 1) << "the same options are fine: " << said_;
  request_.run.cpus = 4;
  EXPECT_EQ(explore(), 2);
  EXPECT_NE(said_.find("leave them out"), std::string::npos) << said_;
  request_.run.cpus.reset();
  request_.first_seed = 1;
  EXPECT_EQ(explore(), 2);
  EXPECT_NE(said_.find("--first-seed has no place"), std::string::npos) << said_;
}

// Parses the words behind "explore"; the error's text, or "".
std::string parse(std::vector<const char*> words) {
  CLI::App app("explore");
  ExploreRequest request;
  add_explore_options(app, request);
  words.insert(words.begin(), "explore");
  try {
    app.parse(static_cast<int>(words.size()), words.data());
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

TEST(ExploreOptionsParsing, Ranges) {
  EXPECT_EQ(parse({"--seeds", "1000000000", "--jobs", "512", "--first-seed", "18446744073709551615"}), "");
  for (const char* bad : {"--seeds=0", "--seeds=1000000001", "--seeds=-1", "--seeds=x", "--seeds=1.5",
                          "--jobs=0", "--jobs=513", "--jobs=-1", "--first-seed=-1", "--first-seed=x"}) {
    EXPECT_NE(parse({bad}), "") << bad;
  }
}

}  // namespace
}  // namespace ktstr
