#include "common/file_stamp.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "common/unique_fd.h"
#include "tests/unit/common/scratch_dir.h"

namespace ktstr::test {
namespace {

class FileStampTest : public testing::Test {
 protected:
  std::optional<FileStamp> stamp() const {
    const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    return FileStamp::of(fd.get());
  }
  // Both in whole seconds.
  void set_times(std::int64_t accessed, std::int64_t modified) const {
    const timespec times[2] = {{accessed, 0}, {modified, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  }

  ScratchDir scratch_;
  std::string path_ = scratch_.file("image", "contents");
};

TEST_F(FileStampTest, IsTheSameForAFileThatNobodyTouched) {
  const auto one = stamp();
  ASSERT_TRUE(one);
  EXPECT_EQ(one, stamp());
  EXPECT_EQ(one->size, 8u);
  EXPECT_NE(one->boot[0], '\0');
}

TEST_F(FileStampTest, DiffersForAnotherFileWithTheSameContents) {
  const auto one = stamp();
  path_ = scratch_.file("copy", "contents");
  EXPECT_NE(one, stamp());
}

TEST_F(FileStampTest, DiffersAfterAWriteEvenIfTimesArePutBack) {
  set_times(1'000'000, 1'000'000);
  const auto before = stamp();
  ASSERT_TRUE(before);
  EXPECT_EQ(before->modified_s, 1'000'000);
  // Only the change time tells; it goes in steps of some milliseconds, so it is given one.
  FileStamp put_back = *before;
  put_back.changed_ns += 1;
  EXPECT_NE(put_back, *before);
  std::ofstream(path_, std::ios::app) << "more";
  set_times(1'000'000, 1'000'000);
  EXPECT_NE(before, stamp()) << "the size differs";
}

TEST_F(FileStampTest, IsOfRegularFilesOnly) {
  const UniqueFd folder(::open(scratch_.path("").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_FALSE(FileStamp::of(folder.get()));
  const UniqueFd device(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(FileStamp::of(device.get()));
  EXPECT_FALSE(FileStamp::of(-1));
}

TEST_F(FileStampTest, IsSettledWhenBothTimesAreLongAgo) {
  FileStamp one = stamp().value();
  EXPECT_FALSE(one.settled(std::chrono::seconds(60))) << "just written";
  one.modified_s -= 100;
  EXPECT_FALSE(one.settled(std::chrono::seconds(60))) << "changed just now";
  one.changed_s -= 100;
  EXPECT_TRUE(one.settled(std::chrono::seconds(60)));
  EXPECT_FALSE(one.settled(std::chrono::seconds(1000)));
  one.modified_s += 10'000;
  EXPECT_FALSE(one.settled(std::chrono::seconds(60))) << "in the future";
}

}  // namespace
}  // namespace ktstr::test
