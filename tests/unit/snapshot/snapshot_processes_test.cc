// The cache with more than one process: whoever makes a snapshot may be killed, or be slower than somebody
// else.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/snapshot/sample_snapshot.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A child that runs `body` and stops at its meeting points until the parent lets it go on.
class Child {
 public:
  class Meeting {
   public:
    Meeting(int in, int out) : in_(in), out_(out) {}
    // Says where it is, and waits.
    void at(char place) const {
      char answer = 0;
      if (::write(out_, &place, 1) != 1 || ::read(in_, &answer, 1) != 1) ::_exit(99);
    }

   private:
    int in_;
    int out_;
  };

  explicit Child(const std::function<int(const Meeting&)>& body) {
    std::array<int, 2> down{};
    std::array<int, 2> up{};
    EXPECT_EQ(::pipe2(down.data(), O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(up.data(), O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(down[1]);
      ::close(up[0]);
      ::_exit(body(Meeting(down[0], up[1])));
    }
    ::close(down[0]);
    ::close(up[1]);
    to_.reset(down[1]);
    from_.reset(up[0]);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) end(SIGKILL);
  }

  // The place the child has come to; 0: it has ended.
  char place() const {
    char place = 0;
    return ::read(from_.get(), &place, 1) == 1 ? place : '\0';
  }
  void go_on() const { EXPECT_EQ(::write(to_.get(), "", 1), 1); }
  // Its exit status, or the signal that ended it, negative.
  int end(int signal = 0) {
    if (signal != 0) ::kill(pid_, signal);
    int status = 0;
    EXPECT_EQ(::waitpid(std::exchange(pid_, -1), &status, 0) > 0, true);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  UniqueFd to_;
  UniqueFd from_;
};

class SnapshotProcessesTest : public testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(root_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  ScratchDir scratch_;
  std::string root_ = scratch_.path("snapshots");
  SnapshotCache cache_{root_};
  std::string key_ = snapshot_key(sample_inputs());
};

TEST_F(SnapshotProcessesTest, TheSecondIsToldWhoMakesIt) {
  Child maker([&](const Child::Meeting& meet) {
    auto begun = cache_.begin(sample_inputs());
    if (!begun || !begun->writer) return 1;
    fill(*begun->writer);
    meet.at('b');
    return begun->writer->commit(sample_manifest()) ? 0 : 2;
  });
  ASSERT_EQ(maker.place(), 'b');
  const auto second = cache_.begin(sample_inputs());
  ASSERT_TRUE(second);
  EXPECT_FALSE(second->writer);
  EXPECT_THAT(second->reason,
              HasSubstr("process " + std::to_string(maker.pid()) + " is making the snapshot"));
  EXPECT_FALSE(cache_.find(key_)->snapshot);
  EXPECT_THAT(cache_.clear({})->removed, ElementsAre());
  maker.go_on();
  EXPECT_EQ(maker.end(), 0) << "what is being made is not cleared";
  EXPECT_TRUE(cache_.find(key_)->snapshot);
}

TEST_F(SnapshotProcessesTest, WhatAKilledMakerLeavesIsRemovedByTheNext) {
  Child maker([&](const Child::Meeting& meet) {
    auto begun = cache_.begin(sample_inputs());
    if (!begun || !begun->writer) return 1;
    fill(*begun->writer);
    meet.at('b');
    return 0;
  });
  ASSERT_EQ(maker.place(), 'b');
  EXPECT_EQ(maker.end(SIGKILL), -SIGKILL);
  EXPECT_THAT(names(), ElementsAre(".new-" + key_, "lock"));
  EXPECT_FALSE(cache_.find(key_)->snapshot);
  EXPECT_TRUE(cache_.list()->empty());
  {
    const auto other = cache_.begin(numbered_inputs(1));
    ASSERT_TRUE(other && other->writer);
    EXPECT_FALSE(fs::exists(root_ + "/.new-" + key_)) << "by a snapshot of other inputs as well";
  }
  make_snapshot(cache_, sample_inputs());
  EXPECT_THAT(names(), ElementsAre(key_, "lock"));
}

TEST_F(SnapshotProcessesTest, KilledMakerOfTheSameIsReplaced) {
  Child maker([&](const Child::Meeting& meet) {
    auto begun = cache_.begin(sample_inputs());
    if (!begun || !begun->writer) return 1;
    meet.at('b');
    return 0;
  });
  ASSERT_EQ(maker.place(), 'b');
  maker.end(SIGKILL);
  make_snapshot(cache_, sample_inputs());
  EXPECT_TRUE(cache_.find(key_)->snapshot);
}

TEST_F(SnapshotProcessesTest, OneThatAnotherProcessUsesIsNeitherEvictedNorCleared) {
  const SnapshotCache small(root_, (1 << 20) + (512 << 10));
  make_snapshot(small, sample_inputs(), 1 << 20);
  Child user([&](const Child::Meeting& meet) {
    const auto found = cache_.find(key_);
    if (!found || !found->snapshot) return 1;
    meet.at('u');
    std::array<std::byte, 4096> page{};
    const ssize_t got = ::pread(found->snapshot->ram.get(), page.data(), page.size(), 1 << 20);
    return got == ssize_t{page.size()} && page[0] == std::byte{1} ? 0 : 2;
  });
  ASSERT_EQ(user.place(), 'u');
  make_snapshot(small, numbered_inputs(1), 1 << 20);
  EXPECT_TRUE(fs::exists(root_ + "/" + key_));
  EXPECT_THAT(cache_.clear({})->in_use, ElementsAre(key_));
  user.go_on();
  EXPECT_EQ(user.end(), 0);
  EXPECT_THAT(cache_.clear({})->removed, ElementsAre(key_));
}

TEST_F(SnapshotProcessesTest, UserThatWasKilledHoldsNothing) {
  make_snapshot(cache_, sample_inputs());
  Child user([&](const Child::Meeting& meet) {
    const auto found = cache_.find(key_);
    meet.at('u');
    return 0;
  });
  ASSERT_EQ(user.place(), 'u');
  EXPECT_TRUE(cache_.list()->at(0).in_use);
  user.end(SIGKILL);
  EXPECT_FALSE(cache_.list()->at(0).in_use);
}

TEST_F(SnapshotProcessesTest, DamagedOneThatAnotherProcessHasOpenGoesAndTheProcessKeepsItsFiles) {
  make_snapshot(cache_, sample_inputs());
  const auto before = cache_.find(key_);
  ASSERT_TRUE(before && before->snapshot);
  flip_byte(root_ + "/" + key_ + "/state", 0);
  EXPECT_THAT(cache_.find(key_)->thrown_away, HasSubstr("checksum of its state"));
  EXPECT_FALSE(fs::exists(root_ + "/" + key_));
  struct stat st = {};
  EXPECT_EQ(::fstat(before->snapshot->ram.get(), &st), 0);
  EXPECT_EQ(st.st_size, static_cast<off_t>(kSampleRam));
  make_snapshot(cache_, sample_inputs());
  EXPECT_TRUE(cache_.find(key_)->snapshot);
}

// All at once: one makes it, and whoever comes later has it or is told.
TEST_F(SnapshotProcessesTest, ManyAtOnceMakeOne) {
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(std::make_unique<Child>([&](const Child::Meeting& meet) {
      meet.at('r');
      auto begun = cache_.begin(sample_inputs());
      if (!begun) return 1;
      if (!begun->writer) return begun->reason.empty() ? 2 : 10;
      fill(*begun->writer);
      return begun->writer->commit(sample_manifest()) ? 0 : 3;
    }));
  }
  for (const auto& child : children) ASSERT_EQ(child->place(), 'r');
  for (const auto& child : children) child->go_on();
  int made = 0;
  for (const auto& child : children) {
    const int status = child->end();
    EXPECT_TRUE(status == 0 || status == 10) << status;
    made += status == 0 ? 1 : 0;
  }
  EXPECT_EQ(made, 1);
  EXPECT_TRUE(cache_.find(key_)->snapshot);
  EXPECT_THAT(names(), ElementsAre(key_, "lock"));
}

// Nobody may write, not even root: in a child that is another user.
TEST_F(SnapshotProcessesTest, FolderThatCannotBeWrittenIsAnErrorInWords) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  make_snapshot(cache_, sample_inputs());
  ASSERT_EQ(::chmod(scratch_.path("").c_str(), 0755), 0);
  ASSERT_EQ(::chmod(root_.c_str(), 0755), 0);
  ASSERT_EQ(::chmod((root_ + "/" + key_).c_str(), 0755), 0);
  for (const char* name : {"ram", "state", "manifest", "lock"})
    ASSERT_EQ(::chmod((root_ + "/" + key_ + "/" + name).c_str(), 0444), 0);
  Child other([&](const Child::Meeting&) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) return 77;
    const auto begun = cache_.begin(numbered_inputs(1));
    if (begun || begun.error().code() != ErrorCode::kHost) return 1;
    if (begun.error().message().find("cannot write to the cache folder") == std::string::npos) return 2;
    // What is there can be used all the same: it is root's.
    const auto found = cache_.find(key_);
    if (!found) return 3;
    if (!found->snapshot) return 4;
    const SnapshotCache nowhere(root_ + "/below/snapshots");
    const auto none = nowhere.begin(numbered_inputs(1));
    return !none && none.error().to_string().find("Permission denied") != std::string::npos ? 0 : 5;
  });
  EXPECT_EQ(other.end(), 0);
}

TEST_F(SnapshotProcessesTest, OneThatIsBeingRemovedIsNotThere) {
  make_snapshot(cache_, sample_inputs());
  Child looker([&](const Child::Meeting& meet) {
    const UniqueFd lock(::open((root_ + "/" + key_ + "/lock").c_str(), O_RDWR | O_CLOEXEC));
    if (::flock(lock.get(), LOCK_EX) != 0) return 1;
    meet.at('l');
    return 0;
  });
  ASSERT_EQ(looker.place(), 'l');
  const auto busy = cache_.find(key_);
  ASSERT_TRUE(busy);
  EXPECT_FALSE(busy->snapshot) << "as if it were being removed";
  EXPECT_EQ(busy->thrown_away, "");
  looker.go_on();
  EXPECT_EQ(looker.end(), 0);
  EXPECT_TRUE(cache_.find(key_)->snapshot);
}

}  // namespace
}  // namespace ktstr::test
