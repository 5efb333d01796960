// What the user types, and where results go.
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "host/run/run_folder.h"
#include "host/run/scheduler_finder.h"
#include "host/run/topology_spec.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

class TemporaryFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ktstr-inputs-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  void TearDown() override { fs::remove_all(path_); }
  fs::path path_;
};

TEST(TopologySpec, ReadsAnyOrderAndDefaultsToOne) {
  const auto topology = parse_topology("threads=2,llcs=4,numa=2");
  ASSERT_TRUE(topology) << topology.error().to_string();
  EXPECT_EQ(format_topology(*topology), "numa=2,llcs=4,cores=1,threads=2");
  EXPECT_EQ(topology->cpus(), 8U);
}

TEST(TopologySpec, RefusesRubbish) {
  for (const char* spec : {"", "numa", "numa=", "numa=0", "numa=-1", "numa=1.5", "numa=1,numa=1", "cpus=4",
                           "numa=2,llcs=3", "llcs=99999999999", ",", "llcs=4 "}) {
    EXPECT_FALSE(parse_topology(spec)) << spec;
  }
  EXPECT_NE(parse_topology("lcs=2").error().to_string().find("did you mean 'llcs'?"), std::string::npos);
}

TEST(SplitArguments, QuotesAsAShellDoes) {
  const auto split = split_arguments(R"(-a "b c" d\ e 'f"g' "" h"i"j)");
  ASSERT_TRUE(split);
  EXPECT_EQ(*split, (std::vector<std::string>{"-a", "b c", "d e", "f\"g", "", "hij"}));
  EXPECT_TRUE(split_arguments("  ")->empty());
  EXPECT_FALSE(split_arguments("'open"));
  EXPECT_FALSE(split_arguments("end\\"));
}

TEST(KernelSeries, IsTheFirstTwoNumbers) {
  EXPECT_EQ(kernel_series("7.2.13+deb14-cloud-amd64"), "7.2");
  EXPECT_EQ(kernel_series("6.18-rc1"), "6.18");
  EXPECT_EQ(kernel_series("x"), "");
  EXPECT_EQ(kernel_series("7."), "");
}

class SchedulerFinder : public TemporaryFolder {
 protected:
  void SetUp() override {
    TemporaryFolder::SetUp();
    ::setenv("XDG_CACHE_HOME", path_.c_str(), 1);
    ::setenv("PATH", (path_ / "bin").c_str(), 1);
    ::unsetenv("KTSTR_SCHEDULER_PATH");
  }
  void make(const fs::path& file) {
    fs::create_directories((path_ / file).parent_path());
    std::ofstream(path_ / file) << "x";
    fs::permissions(path_ / file, fs::perms::owner_all);
  }
};

TEST_F(SchedulerFinder, PrefersTheKernelsOwnSeriesThenTheNewest) {
  make("ktstr-vm/schedulers/7.2/scx_a");
  make("ktstr-vm/schedulers/7.10/scx_a");
  make("ktstr-vm/schedulers/6.18/scx_a");
  EXPECT_TRUE(find_scheduler("scx_a", "6.18.15")->ends_with("/6.18/scx_a"));
  EXPECT_TRUE(find_scheduler("scx_a", "5.1")->ends_with("/7.10/scx_a"));
}

TEST_F(SchedulerFinder, AMissingOneNamesWhereItLooked) {
  const auto found = find_scheduler("scx_none", "7.2");
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code(), ErrorCode::kUsage);
  EXPECT_NE(found.error().message().find((path_ / "bin").string()), std::string::npos);
  EXPECT_FALSE(find_scheduler("/nonexistent/scx", "7.2"));
  EXPECT_EQ(find_scheduler(path_.string() + "/", "7.2").error().code(), ErrorCode::kStartFailed);
}

class RunFolderTest : public TemporaryFolder {};

TEST_F(RunFolderTest, LatestFollowsAndNothingIsOverwritten) {
  const auto first = RunFolder::create(path_ / "out");
  const auto second = RunFolder::create(path_ / "out");
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->path(), second->path());
  EXPECT_EQ(fs::read_symlink(path_ / "out" / "latest"), second->id());
  ASSERT_TRUE(first->write("a", "text"));
  EXPECT_EQ(std::distance(fs::directory_iterator(first->path()), {}), 1);
}

TEST_F(RunFolderTest, AnUnwritablePlaceIsHostTrouble) {
  std::ofstream(path_ / "file") << "x";
  const auto folder = RunFolder::create(path_ / "file" / "out");
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code(), ErrorCode::kHost);
}

TEST_F(RunFolderTest, ALogStopsAtItsLimitAndSaysSo) {
  const auto folder = RunFolder::create(path_);
  ASSERT_TRUE(folder);
  auto log = folder->open_log("x.log");
  ASSERT_TRUE(log);
  const std::string block(1 << 20, 'x');
  for (int i = 0; i < 66; ++i) log->append(block);
  EXPECT_EQ(log->dropped(), 2ULL << 20);
  EXPECT_LT(fs::file_size(folder->path() / "x.log"), (64ULL << 20) + 100);
}

}  // namespace
}  // namespace ktstr
