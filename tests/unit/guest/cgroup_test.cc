#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guest/cgroup/cgroup_group.h"
#include "guest/cgroup/cgroup_manager.h"
#include "guest/cgroup/recording_cgroups.h"
#include "guest/workload/process.h"
#include "tests/unit/guest/fake_supervisor.h"

namespace ktstr::guest {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A folder that looks like a cgroup tree as far as files go.
class PlainTree : public ::testing::Test {
 protected:
  PlainTree() {
    char path[] = "/tmp/ktstr-cgroup-XXXXXX";
    root_ = ::mkdtemp(path);
  }
  ~PlainTree() override { fs::remove_all(root_); }
  void file(const std::string& name, const std::string& text = "") { std::ofstream(root_ / name) << text; }
  std::string content(const std::string& name) {
    std::ostringstream text;
    text << std::ifstream(root_ / name).rdbuf();
    return text.str();
  }
  fs::path root_;
};

TEST_F(PlainTree, EnablesOnlyWhatIsNeeded) {
  file("cgroup.controllers", "cpuset cpu io memory pids\n");
  file("cgroup.subtree_control");
  fs::create_directory(root_ / "ktstr");
  file("ktstr/cgroup.controllers", "cpuset cpu\n");
  file("ktstr/cgroup.subtree_control");
  CgroupManager manager(root_);
  ASSERT_TRUE(manager.set_up({Controller::kCpuset}));
  EXPECT_EQ(content("cgroup.subtree_control"), "+cpuset");
  EXPECT_EQ(content("ktstr/cgroup.subtree_control"), "+cpuset");
}

TEST_F(PlainTree, NoKnobsNeedNoController) {
  CgroupManager manager(root_);
  EXPECT_TRUE(manager.set_up({}));
  EXPECT_TRUE(fs::is_directory(root_ / "ktstr"));
  EXPECT_TRUE(manager.tear_down());
  EXPECT_FALSE(fs::exists(root_ / "ktstr"));
}

TEST_F(PlainTree, MissingControllerNamesTheKernelOption) {
  file("cgroup.controllers", "cpu\n");
  CgroupManager manager(root_);
  const auto made = manager.set_up({Controller::kCpu, Controller::kCpuset});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), ErrorCode::kKernelLacks);
  EXPECT_THAT(made.error().to_string(), HasSubstr("CONFIG_CPUSETS"));
}

TEST_F(PlainTree, MissingKnobNamesTheKernelOption) {
  CgroupManager manager(root_);
  ASSERT_TRUE(manager.set_up({}));
  ASSERT_TRUE(manager.create("a"));
  const auto set = manager.set("a", "cpu.weight", "300");
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), ErrorCode::kKernelLacks);
  EXPECT_THAT(set.error().to_string(), HasSubstr("CONFIG_FAIR_GROUP_SCHED"));
  EXPECT_THAT(set.error().to_string(), HasSubstr("'300'"));
}

TEST_F(PlainTree, ErrorsSayFileValueAndErrno) {
  CgroupManager manager(root_);
  ASSERT_TRUE(manager.set_up({}));
  const auto set = manager.attach("nowhere", 12);
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().errno_value(), ENOENT);
  EXPECT_THAT(set.error().to_string(), HasSubstr("'12'"));
  EXPECT_THAT(set.error().to_string(), HasSubstr("/ktstr/nowhere/cgroup.procs"));
}

TEST_F(PlainTree, NamesCannotLeaveTheRoot) {
  CgroupManager manager(root_);
  ASSERT_TRUE(manager.set_up({}));
  for (const char* name : {"", ".", "..", "../x", "a/b"}) {
    EXPECT_FALSE(manager.create(name)) << name;
    EXPECT_FALSE(manager.kill(name)) << name;
    EXPECT_FALSE(manager.open_directory(name)) << name;
  }
}

TEST_F(PlainTree, ProcsIgnoresRubbish) {
  CgroupManager manager(root_);
  ASSERT_TRUE(manager.set_up({}));
  ASSERT_TRUE(manager.create("a"));
  file("ktstr/a/cgroup.procs", "17\nx\n99999999999999999999\n18\n");
  EXPECT_THAT(*manager.procs("a"), ::testing::UnorderedElementsAre(17, 18));
  fs::remove(root_ / "ktstr/a/cgroup.procs");
}

TEST(CgroupGroupTest, RemovesInReverseOrder) {
  RecordingCgroups cgroups;
  FakeSupervisor supervisor;
  {
    CgroupGroup group(cgroups, supervisor);
    ASSERT_TRUE(group.create("a"));
    ASSERT_TRUE(group.create("b"));
  }
  EXPECT_THAT(cgroups.log, ElementsAre("create a", "create b", "remove b", "remove a"));
}

TEST(CgroupGroupTest, FailedCreateIsNotRemoved) {
  RecordingCgroups cgroups;
  FakeSupervisor supervisor;
  cgroups.failures["create a"] = {EEXIST};
  CgroupGroup group(cgroups, supervisor);
  EXPECT_FALSE(group.create("a"));
  EXPECT_TRUE(group.remove_all().empty());
  EXPECT_THAT(cgroups.log, ElementsAre("create a"));
}

// What the kernel says, where a cgroup v2 tree may be written.
class RealTree : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* mount : {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}) {
      if (!fs::exists(fs::path(mount) / "cgroup.procs")) continue;
      root_ = fs::path(mount) / ("ktstr-test-" + std::to_string(::getpid()));
      if (::mkdir(root_.c_str(), 0755) == 0) return;
    }
    root_.clear();
    GTEST_SKIP() << "no cgroup v2 tree that may be written";
  }
  void TearDown() override {
    if (!root_.empty()) ::rmdir(root_.c_str());
  }
  fs::path root_;
};

TEST_F(RealTree, ForksIntoFreezesKillsAndRemoves) {
  CgroupManager manager(root_);
  FakeSupervisor supervisor;
  ASSERT_TRUE(manager.set_up({}));
  UniqueFd pidfd;
  {
    CgroupGroup group(manager, supervisor);
    ASSERT_TRUE(group.create("a"));
    const UniqueFd directory = manager.open_directory("a");
    auto forked = fork_process(directory.get());
    ASSERT_TRUE(forked);
    if (forked->pid == 0) {
      for (;;) ::pause();
    }
    pidfd = std::move(forked->pidfd);
    const bool placed = forked->in_cgroup || manager.attach("a", forked->pid).has_value();
    ASSERT_TRUE(placed);
    EXPECT_THAT(*manager.procs("a"), ElementsAre(forked->pid));
    EXPECT_TRUE(manager.freeze("a", true));
    const auto removed = manager.remove("a");
    ASSERT_FALSE(removed);
    EXPECT_EQ(removed.error().errno_value(), EBUSY);
    EXPECT_TRUE(group.remove_all().empty());
    EXPECT_FALSE(fs::exists(root_ / "ktstr/a"));
  }
  const auto status = try_reap(pidfd.get());
  ASSERT_TRUE(status);
  EXPECT_EQ(to_string(*status), "killed by signal 9");
  EXPECT_TRUE(manager.tear_down());
}

}  // namespace
}  // namespace ktstr::guest
