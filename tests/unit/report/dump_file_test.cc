#include "host/report/dump/dump_file.h"

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/report/sample_dump.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class DumpFileTest : public testing::Test {
 protected:
  DumpFileTest() {
    std::string name = (fs::temp_directory_path() / "ktstr-dump-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~DumpFileTest() override { fs::remove_all(folder_); }

  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  std::string put(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }

  fs::path folder_;
};

TEST_F(DumpFileTest, WhatIsWrittenIsReadBack) {
  ktstr::v1::Dump dump = sample_dump(20);
  const auto written = write_dump(folder_.string(), 3, dump);
  ASSERT_TRUE(written) << written.error().to_string();
  EXPECT_EQ(written->json, (folder_ / "dump-3.json").string());
  EXPECT_EQ(files(), 3u);
  for (const std::string& path : {written->pb, written->json, written->text}) {
    const auto read = read_dump(path);
    ASSERT_TRUE(read) << read.error().to_string();
    EXPECT_EQ(read->tasks_size(), 25);
    EXPECT_EQ(read->tasks(2).comm(), "bad\u00ff\x1b[31m\u00e9");
  }
}

TEST_F(DumpFileTest, AFailureNamesTheFileAndLeavesNothing) {
  ktstr::v1::Dump dump = sample_dump();
  const auto gone = write_dump((folder_ / "no").string(), 1, dump);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code(), ErrorCode::kHost);
  EXPECT_THAT(gone.error().to_string(), HasSubstr("no/dump-1.pb': No such file"));

  // A file that may not grow stands for a full disk.
  dump = sample_dump(2000);
  rlimit before = {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = dump.ByteSizeLong() + 1000, .rlim_max = before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const auto full = write_dump(folder_.string(), 1, dump);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), ErrorCode::kHost);
  EXPECT_THAT(full.error().to_string(), HasSubstr("dump-1.json': File too large"));
  EXPECT_EQ(files(), 0u);

  fs::create_directory(folder_ / "dump-2.txt");
  dump = sample_dump();
  EXPECT_FALSE(write_dump(folder_.string(), 2, dump));
  EXPECT_EQ(files(), 1u);
}

TEST_F(DumpFileTest, OtherFilesAreRefused) {
  const auto refused = [&](const std::string& path) {
    const auto read = read_dump(path);
    EXPECT_FALSE(read);
    if (read) return std::string();
    EXPECT_EQ(read.error().code(), ErrorCode::kUsage);
    return read.error().to_string();
  };
  EXPECT_THAT(refused((folder_ / "none.pb").string()), HasSubstr("No such file"));
  EXPECT_THAT(refused(put("a.json", "{}")), HasSubstr("reads the .pb of a dump"));
  EXPECT_THAT(refused(put("empty.pb", "")), HasSubstr("is empty"));
  EXPECT_THAT(refused(put("text.pb", "hello, world\n")), HasSubstr("is no dump"));
  const std::string bytes = sample_dump(3).SerializePartialAsString();
  EXPECT_THAT(refused(put("cut.pb", bytes.substr(0, bytes.size() - 5))), HasSubstr("cut off"));
  ktstr::v1::Dump later;
  later.mutable_header()->set_schema_version(99);
  EXPECT_THAT(refused(put("later.pb", later.SerializeAsString())), HasSubstr("by a later ktstr-vm"));
  ktstr::v1::Dump none;
  none.add_tasks();
  EXPECT_THAT(refused(put("none.pb", none.SerializeAsString())), HasSubstr("no schema version"));
  // Two bytes in the file, hundreds in memory.
  std::string many;
  for (int i = 0; i < 8000000; ++i) many += std::string("\x3a\x00", 2);
  EXPECT_THAT(refused(put("many.pb", many)), HasSubstr("would need more than"));
}

}  // namespace
}  // namespace ktstr
