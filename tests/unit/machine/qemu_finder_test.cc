#include "host/machine/tcg/qemu_finder.h"

#include <stdlib.h>

#include <fstream>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

namespace fs = std::filesystem;

class QemuFinderTest : public ::testing::Test {
 protected:
  QemuFinderTest() {
    std::string path = fs::temp_directory_path() / "ktstr-qemu-XXXXXX";
    root_ = mkdtemp(path.data());
    places_ = {.override_path = "",
               .cache = root_ / "cache",
               .search_path = (root_ / "empty").string() + "::" + (root_ / "bin").string()};
  }
  ~QemuFinderTest() override { fs::remove_all(root_); }

  // A program that runs `body`.
  static fs::path script(const fs::path& path, const std::string& body) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(path, fs::perms::owner_all);
    return path;
  }
  static std::string says_version(const std::string& version) {
    return "echo 'QEMU emulator version " + version + "'; echo 'Copyright (c) somebody'";
  }
  fs::path cached() const { return root_ / "cache/qemu/current/usr/bin/qemu-system-x86_64"; }
  fs::path in_path() const { return root_ / "bin/qemu-system-x86_64"; }

  fs::path root_;
  QemuPlaces places_;
};

TEST_F(QemuFinderTest, TheCachedOneComesBeforePath) {
  script(cached(), says_version("10.0.2 (Debian 1:10)"));
  script(in_path(), says_version("7.2.22"));
  fs::create_directories(root_ / "cache/qemu/current/usr/share/qemu");
  const auto qemu = find_qemu(places_);
  ASSERT_TRUE(qemu) << qemu.error().to_string();
  EXPECT_EQ(qemu->path, cached());
  EXPECT_EQ(qemu->version, "10.0.2 (Debian 1:10)");
  EXPECT_EQ(qemu->major, 10);
  EXPECT_TRUE(qemu->multi_thread_safe());
  const std::string firmware = root_ / "cache/qemu/current/usr/share/qemu";
  EXPECT_EQ(qemu->firmware_folders, std::vector<std::string>{firmware});
}

TEST_F(QemuFinderTest, PathIsSearchedInOrder) {
  script(in_path(), says_version("7.2.22 (Debian 1:7.2)"));
  const auto qemu = find_qemu(places_);
  ASSERT_TRUE(qemu) << qemu.error().to_string();
  EXPECT_EQ(qemu->path, in_path());
  EXPECT_FALSE(qemu->multi_thread_safe());
  EXPECT_TRUE(qemu->firmware_folders.empty());
}

TEST_F(QemuFinderTest, TheOverrideIsTheOnlyOne) {
  script(cached(), says_version("10.0.2"));
  places_.override_path = script(root_ / "mine", says_version("11.1.0"));
  const auto qemu = find_qemu(places_);
  ASSERT_TRUE(qemu) << qemu.error().to_string();
  EXPECT_EQ(qemu->major, 11);
  places_.override_path = root_ / "nothing-here";
  const auto none = find_qemu(places_);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), ErrorCode::kHost);
  EXPECT_NE(none.error().to_string().find("KTSTR_QEMU"), std::string::npos);
}

TEST_F(QemuFinderTest, NoneNamesPackageAndScript) {
  const auto none = find_qemu(places_);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), ErrorCode::kHost);
  EXPECT_NE(none.error().to_string().find("qemu-system-x86"), std::string::npos);
  EXPECT_NE(none.error().to_string().find("scripts/fetch-qemu"), std::string::npos);
}

TEST_F(QemuFinderTest, AProgramThatIsNoQemu) {
  for (const char* body :
       {"echo hello", "exit 1", "echo QEMU emulator version x.y", "kill -9 $$", "exec 1>&-"}) {
    script(cached(), body);
    const auto qemu = find_qemu(places_);
    ASSERT_FALSE(qemu) << body;
    EXPECT_EQ(qemu.error().code(), ErrorCode::kHost);
  }
}

TEST_F(QemuFinderTest, OutputIsBounded) {
  script(cached(), "yes");
  EXPECT_FALSE(find_qemu(places_));
}

TEST_F(QemuFinderTest, TimeIsBounded) {
  script(cached(), "exec sleep 1000");
  places_.limit = std::chrono::milliseconds(50);
  const auto qemu = find_qemu(places_);
  ASSERT_FALSE(qemu);
  EXPECT_NE(qemu.error().to_string().find("50 ms"), std::string::npos) << qemu.error().to_string();
}

TEST_F(QemuFinderTest, AFileThatCannotBeExecuted) {
  fs::create_directories(cached().parent_path());
  std::ofstream(cached()) << "\x7f"
                             "ELF rubbish";
  fs::permissions(cached(), fs::perms::owner_all);
  const auto qemu = find_qemu(places_);
  ASSERT_FALSE(qemu);
  EXPECT_EQ(qemu.error().code(), ErrorCode::kHost);
}

}  // namespace
}  // namespace ktstr
