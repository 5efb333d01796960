#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <filesystem>

#include <gtest/gtest.h>

#include "common/read_file.h"
#include "guest/init/file_receiver.h"

namespace ktstr::guest {
namespace {

namespace fs = std::filesystem;

class FileReceiverTest : public testing::Test {
 protected:
  FileReceiverTest() {
    std::string path = (fs::temp_directory_path() / "ktstr-receiver-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) ::abort();
    root_ = path;
  }
  ~FileReceiverTest() override { fs::remove_all(root_); }

  static v1::File file(const std::string& path, std::uint64_t size, std::uint32_t mode = 0644) {
    v1::File file;
    file.set_path(path);
    file.set_size(size);
    file.set_mode(mode);
    return file;
  }
  static v1::FileData bytes(const std::string& text) {
    v1::FileData data;
    data.set_data(text);
    return data;
  }
  std::string content(const std::string& path) const {
    return read_file(root_ + path, 1000).value_or("absent");
  }
  FileReceiver receiver() const { return FileReceiver(root_, 1000); }

  std::string root_;
};

TEST_F(FileReceiverTest, FilesStandWhereTheyBelong) {
  FileReceiver files = receiver();
  files.begin(file("/ktstr/bin/program", 6, 0755));
  files.data(bytes("pro"));
  files.data(bytes("gram"));  // one byte too many
  EXPECT_NE(files.problem().find("more bytes"), std::string::npos) << files.problem();
  files.restart();
  files.begin(file("/ktstr/bin/program", 6, 0755));
  files.data(bytes("pro"));
  files.data(bytes("gra"));
  files.begin(file("/etc/empty", 0, 0600));
  v1::File link = file("/lib/liba.so", 0);
  link.set_kind(v1::File::SYMLINK);
  link.set_target("liba.so.1");
  files.begin(link);
  v1::File folder = file("/var/folder", 0, 0700);
  folder.set_kind(v1::File::FOLDER);
  files.begin(folder);
  files.begin(folder);  // is there already
  EXPECT_EQ(files.problem(), "");
  EXPECT_EQ(content("/ktstr/bin/program"), "progra");
  EXPECT_EQ(content("/etc/empty"), "");
  EXPECT_EQ(fs::read_symlink(root_ + "/lib/liba.so"), "liba.so.1");
  struct stat st {};
  ASSERT_EQ(::stat((root_ + "/ktstr/bin/program").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777U, 0755U);
}

TEST_F(FileReceiverTest, WhatIsThereIsReplacedAndNotWrittenThrough) {
  FileReceiver files = receiver();
  files.begin(file("/victim", 3));
  files.data(bytes("old"));
  ASSERT_EQ(::symlink("victim", (root_ + "/name").c_str()), 0);
  files.begin(file("/name", 3));
  files.data(bytes("new"));
  EXPECT_EQ(files.problem(), "");
  EXPECT_EQ(content("/victim"), "old");
  EXPECT_EQ(content("/name"), "new");
}

TEST_F(FileReceiverTest, HostilePathsAreRefused) {
  const std::vector<std::string> hostile = {"",
                                            "relative",
                                            "/",
                                            "/a/",
                                            "/a//b",
                                            "/a/./b",
                                            "/../etc/passwd",
                                            "/a/..",
                                            std::string("/a\0b", 4),
                                            "/proc/sys/kernel/panic",
                                            "/sys",
                                            "/dev/null",
                                            "/" + std::string(256, 'x'),
                                            "/" + std::string(5000, 'x')};
  for (const std::string& path : hostile) {
    FileReceiver files = receiver();
    files.begin(file(path, 0));
    EXPECT_FALSE(files.problem().empty()) << path;
  }
  for (const char* path : {"/process", "/system/x", "/devices", "/a..b"})
    EXPECT_EQ(refuse_path(path), "") << path;
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(FileReceiverTest, SizesAreBounded) {
  FileReceiver files = receiver();
  files.begin(file("/large", UINT64_MAX));
  EXPECT_FALSE(files.problem().empty());
  files = receiver();
  files.begin(file("/a", 600));
  files.data(bytes(std::string(600, 'a')));
  EXPECT_EQ(files.problem(), "");
  files.begin(file("/b", 401));  // 1000 in all
  EXPECT_FALSE(files.problem().empty());
  EXPECT_FALSE(fs::exists(root_ + "/b"));
}

TEST_F(FileReceiverTest, PackedPiecesAreUnpackedAndDamagedOnesRefused) {
  const std::string text(500, 'a');
  v1::FileData packed;
  packed.mutable_data()->resize(::ZSTD_compressBound(text.size()));
  packed.mutable_data()->resize(
      ::ZSTD_compress(packed.mutable_data()->data(), packed.data().size(), text.data(), text.size(), 1));
  packed.set_inflated(500);
  FileReceiver files = receiver();
  files.begin(file("/text", 500));
  files.data(packed);
  EXPECT_EQ(files.problem(), "");
  EXPECT_EQ(files.received(), 500U);
  EXPECT_EQ(content("/text"), text);
  const auto refused = [&](const v1::FileData& data, const char* why) {
    FileReceiver other = receiver();
    other.begin(file("/other", 500));
    other.data(data);
    EXPECT_NE(other.problem().find(why), std::string::npos) << other.problem();
  };
  v1::FileData data = packed;
  data.mutable_data()->pop_back();
  refused(data, "cannot be unpacked");
  data = packed;
  data.set_inflated(499);
  refused(data, "cannot be unpacked");
  data.set_inflated(501);
  refused(data, "became 500 bytes instead of 501");
  data.set_inflated(UINT32_MAX);
  refused(data, "more than 1048576");
}

TEST_F(FileReceiverTest, TheFirstProblemEndsIt) {
  FileReceiver files = receiver();
  files.data(bytes("of nothing"));
  const std::string problem = files.problem();
  EXPECT_FALSE(problem.empty());
  files.begin(file("/a", 1));
  files.data(bytes("a"));
  EXPECT_EQ(files.problem(), problem);
  EXPECT_TRUE(fs::is_empty(root_));
  EXPECT_EQ(files.received(), 11U);
}

TEST_F(FileReceiverTest, AFileThatIsCutShortIsAProblem) {
  FileReceiver files = receiver();
  files.begin(file("/a", 3));
  files.data(bytes("ab"));
  EXPECT_NE(files.problem().find("1 bytes of"), std::string::npos) << files.problem();
  files.begin(file("/b", 0));
  EXPECT_FALSE(fs::exists(root_ + "/b"));
  v1::File odd = file("/c", 0);
  odd.set_kind(static_cast<v1::File::Kind>(7));
  files = receiver();
  files.begin(odd);
  EXPECT_FALSE(files.problem().empty());
}

}  // namespace
}  // namespace ktstr::guest
