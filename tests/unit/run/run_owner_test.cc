#include "host/run/run_owner.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

class RunOwnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "run-owner-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void put(const std::string& text) const { std::ofstream(folder_ + "/" + kRunOwnerFile) << text; }

  std::string folder_;
};

TEST_F(RunOwnerTest, IsReadBackAndAlive) {
  put(to_text(this_process()));
  const auto owner = read_run_owner(folder_);
  ASSERT_TRUE(owner) << owner.error().to_string();
  EXPECT_EQ(owner->pid, ::getpid());
  EXPECT_TRUE(is_alive(*owner));
}

TEST_F(RunOwnerTest, AnotherProcessWithTheSameIdIsNotIt) {
  RunOwner owner = this_process();
  ++owner.start_time;
  EXPECT_FALSE(is_alive(owner));
}

TEST_F(RunOwnerTest, AProcessThatIsGoneIsNotAlive) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_GT(child, 0);
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(is_alive({child, 1}));
}

TEST_F(RunOwnerTest, SaysWhatIsWrong) {
  const auto message = [&](const std::string& folder) {
    const auto owner = read_run_owner(folder);
    EXPECT_FALSE(owner);
    return owner ? std::string() : owner.error().to_string();
  };
  EXPECT_NE(message(folder_ + "/none").find("no folder of a run"), std::string::npos);
  EXPECT_NE(message(folder_).find("no folder of a run in progress"), std::string::npos);
  std::ofstream(folder_ + "/result.json") << "{}";
  EXPECT_NE(message(folder_).find("is over"), std::string::npos);
  for (const char* text : {"", "x", "-1 5", "0 5", "12", "12 x"}) {
    put(text);
    EXPECT_NE(message(folder_).find("damaged"), std::string::npos) << text;
  }
}

TEST_F(RunOwnerTest, TheFileIsThereAsLongAsItsObject) {
  const auto folder = RunFolder::create(folder_);
  ASSERT_TRUE(folder);
  const std::filesystem::path file = folder->path() / kRunOwnerFile;
  // As a run that ends at an error: nobody tidies up by hand.
  const auto fail_early = [&]() -> Expected<void> {
    auto first = RunOwnerFile::create(*folder);
    if (!first) return std::unexpected(first.error());
    const RunOwnerFile moved = std::move(*first);
    EXPECT_TRUE(std::filesystem::exists(file));
    const auto owner = read_run_owner(folder->path().string());
    EXPECT_TRUE(owner && owner->pid == ::getpid());
    return fail(ErrorCode::kHost, "something else went wrong");
  };
  EXPECT_FALSE(fail_early());
  EXPECT_FALSE(std::filesystem::exists(file));
}

}  // namespace
}  // namespace ktstr
