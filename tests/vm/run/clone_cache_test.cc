// The cache of snapshots goes wrong in every way: the run is none the worse for it, and says why it boots.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/vm/run/clone_vm_test.h"

namespace ktstr::vmtest {
namespace {

class ClonesCache : public Clones {
 protected:
  static std::size_t count(const std::string& prefix) {
    std::error_code error;
    return static_cast<std::size_t>(std::count_if(
        fs::directory_iterator(cache_->snapshots(), error), fs::directory_iterator(), [&](const auto& entry) {
          return entry.is_directory() && entry.path().filename().string().starts_with(prefix);
        }));
  }
  static std::size_t complete() { return count("") - count("."); }
  static std::string saved_and_failed(const VmRun& run) {
    const auto saved = list(clone_of(run), "saved");
    return saved.empty() ? "" : saved[0].value("failed", "");
  }
};

TEST_F(ClonesCache, ADamagedSnapshotBootsAndSaysWhy) {
  clear();
  keep("hello", {});
  for (const auto& entry : fs::directory_iterator(cache_->snapshots())) {
    const fs::path state = entry.path() / "state";
    if (!fs::exists(state)) continue;
    ASSERT_EQ(::chmod(state.c_str(), 0600), 0);
    ASSERT_EQ(::truncate(state.c_str(), static_cast<off_t>(fs::file_size(state) / 2)), 0);
  }
  const VmRun run = with_clone("auto", {});
  expect_pass(run, "");
  ASSERT_EQ(list(run.result["host"], "warnings").size(), 1U) << run.describe();
  EXPECT_NE(run.err.find("starting"), std::string::npos);
  expect_pass(with_clone("auto", {}), "hello");
}

TEST_F(ClonesCache, ACacheThatCannotBeWrittenBootsAndSaysSo) {
  clear();
  std::ofstream(cache_->snapshots()) << "a file";
  const VmRun run = with_clone("auto", {});
  EXPECT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(point_of(run), "");
  EXPECT_FALSE(list(run.result["host"], "warnings").empty()) << run.describe();
  clear();
}

TEST_F(ClonesCache, TwoRunsAtOnceMakeOneSnapshot) {
  clear();
  const VmRun runs =
      run_on("7.2", {"--repeat", "2", "--jobs", "2", "--scenario", load(), "--clone", "auto", "--cpus", "1"});
  EXPECT_EQ(runs.exit_code, 0) << runs.describe();
  EXPECT_EQ(complete(), 1U);
  EXPECT_EQ(count("."), 0U);
  expect_pass(with_clone("always", {"--cpus", "1"}), "hello");
}

TEST_F(ClonesCache, AMakerThatIsKilledCostsNothing) {
  clear();
  const VmRun killed = run_on("7.2", {"--clone", "auto"}, [](pid_t pid) {
    while (count(".new-") == 0 && complete() == 0 && ::kill(pid, 0) == 0) ::usleep(500);
    ::kill(pid, SIGKILL);
  });
  EXPECT_EQ(killed.exit_code, 128 + SIGKILL);
  const std::size_t made = complete();
  const VmRun next = with_clone("auto", {});
  expect_pass(next, made == 0 ? "" : "hello");
  EXPECT_EQ(complete(), 1U);
  EXPECT_EQ(count(".new-"), 0U);
}

// A file system of its own with room for no guest; seen by this process only.
TEST_F(ClonesCache, AFullDiskCostsTheSnapshotOnly) {
  clear();
  if (::unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "not allowed to mount";
  ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  fs::create_directories(cache_->snapshots());
  ASSERT_EQ(::mount("none", cache_->snapshots().c_str(), "tmpfs", 0, "size=16m"), 0);
  const VmRun run = with_clone("auto", {});
  EXPECT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_NE(saved_and_failed(run).find("No space left"), std::string::npos) << run.describe();
  EXPECT_NE(run.out.find("No space left"), std::string::npos) << run.describe();
  EXPECT_EQ(complete(), 0U);
  EXPECT_EQ(count("."), 0U);
  ::umount2(cache_->snapshots().c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace ktstr::vmtest
