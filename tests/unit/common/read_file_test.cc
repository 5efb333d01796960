#include "common/read_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/common/scratch_dir.h"

namespace ktstr {
namespace {

TEST(ReadFile, ReadsTheWholeFile) {
  const test::ScratchDir dir;
  const std::string contents = std::string(100000, 'x') + std::string("\0end", 4);
  const auto text = read_file(dir.file("f", contents), contents.size());
  ASSERT_TRUE(text) << text.error().to_string();
  EXPECT_EQ(*text, contents);
}

TEST(ReadFile, AnEmptyFileIsEmptyText) {
  const test::ScratchDir dir;
  const auto text = read_file(dir.file("f", ""), 0);
  ASSERT_TRUE(text) << text.error().to_string();
  EXPECT_EQ(*text, "");
}

TEST(ReadFile, TheLimitIsTheLargestSizeThatIsRead) {
  const test::ScratchDir dir;
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{4095}, std::size_t{4096}, std::size_t{4097}, std::size_t{8192}}) {
    const std::string path = dir.file("f", std::string(size, 'x'));
    const auto fits = read_file(path, size);
    ASSERT_TRUE(fits) << fits.error().to_string();
    EXPECT_EQ(fits->size(), size);
    const auto too_large = read_file(path, size - 1);
    ASSERT_FALSE(too_large);
    EXPECT_EQ(too_large.error().message(),
              "'" + path + "' has more than " + std::to_string(size - 1) + " bytes");
  }
}

TEST(ReadFile, ReadsProcFilesWhoseSizeIsZero) {
  struct stat st = {};
  ASSERT_EQ(::stat("/proc/self/status", &st), 0);
  ASSERT_EQ(st.st_size, 0);
  const auto text = read_file("/proc/self/status", kMaxAttribute);
  ASSERT_TRUE(text) << text.error().to_string();
  EXPECT_NE(text->find("\nPid:\t" + std::to_string(::getpid()) + "\n"), std::string::npos);
}

TEST(ReadFile, ReadsProcFilesLargerThanAPage) {
  const auto text = read_file("/proc/self/maps", std::size_t{16} << 20);
  ASSERT_TRUE(text) << text.error().to_string();
  EXPECT_TRUE(text->ends_with('\n'));
  EXPECT_FALSE(read_file("/proc/self/maps", 100));
}

TEST(ReadFile, ErrorsCarryPathErrnoAndTheCallersCode) {
  const test::ScratchDir dir;
  const auto missing = read_file(dir.path("nothing"), 10, ErrorCode::kUsage);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::kUsage);
  EXPECT_EQ(missing.error().errno_value(), ENOENT);
  EXPECT_EQ(missing.error().message(),
            "cannot open '" + dir.path("nothing") + "': No such file or directory");
  EXPECT_EQ(read_file(dir.path("nothing"), 10).error().code(), ErrorCode::kHost);
}

TEST(ReadFile, RefusesWhatIsNoRegularFileWithoutWaiting) {
  const test::ScratchDir dir;
  const std::string fifo = dir.path("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, dir.path(""), std::string("/dev/zero")}) {
    const auto text = read_file(path, 100);
    ASSERT_FALSE(text) << path;
    EXPECT_EQ(text.error().message(), "'" + path + "' is not a regular file");
  }
}

TEST(ReadAttribute, CutsBlanksAtTheEnd) {
  const test::ScratchDir dir;
  EXPECT_EQ(read_attribute(dir.file("a", " enabled \n\n")).value(), " enabled");
  EXPECT_EQ(read_attribute(dir.file("b", "\n")).value(), "");
  EXPECT_EQ(read_attribute(dir.file("c", "")).value(), "");
  EXPECT_FALSE(read_attribute(dir.file("d", std::string(kMaxAttribute + 1, 'x'))));
}

TEST(ReadAttribute, ReadsSysfs) {
  const std::string path = "/sys/devices/system/cpu/online";
  if (::access(path.c_str(), R_OK) != 0) GTEST_SKIP() << "no sysfs here";
  const auto online = read_attribute(path);
  ASSERT_TRUE(online) << online.error().to_string();
  EXPECT_TRUE(online->starts_with("0"));
  EXPECT_FALSE(online->ends_with('\n'));
}

TEST(WriteAttribute, WritesAnExistingFile) {
  const test::ScratchDir dir;
  const std::string path = dir.file("f", "");
  const auto written = write_attribute(path, "+cpu");
  ASSERT_TRUE(written) << written.error().to_string();
  EXPECT_EQ(read_file(path, 100).value(), "+cpu");
}

TEST(WriteAttribute, WritesProc) {
  const std::string path = "/proc/self/comm";
  const std::string before = read_attribute(path).value();
  ASSERT_TRUE(write_attribute(path, "renamed"));
  EXPECT_EQ(read_attribute(path).value(), "renamed");
  ASSERT_TRUE(write_attribute(path, before));
}

TEST(WriteAttribute, DoesNotCreateAFile) {
  const test::ScratchDir dir;
  const auto written = write_attribute(dir.path("nothing"), "1");
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().errno_value(), ENOENT);
  EXPECT_NE(::access(dir.path("nothing").c_str(), F_OK), 0);
}

TEST(WriteAttribute, ErrorsSayWhatWasWrittenWhere) {
  // Only a number from -1000 to 1000 is taken (fs/proc/base.c, oom_score_adj_write).
  const auto written = write_attribute("/proc/self/oom_score_adj", "rubbish\n", ErrorCode::kStartFailed);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code(), ErrorCode::kStartFailed);
  EXPECT_EQ(written.error().message(),
            "cannot write 'rubbish\\n' to '/proc/self/oom_score_adj': Invalid argument");
}

TEST(WriteAttribute, ALongTextIsCutInTheMessage) {
  const auto written = write_attribute("/proc/self/oom_score_adj", std::string(100000, 'x'));
  ASSERT_FALSE(written);
  EXPECT_LT(written.error().message().size(), 300U);
}

}  // namespace
}  // namespace ktstr
