#include "host/boot/initramfs.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/unit/boot/boot_fixture.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class InitramfsTest : public BootTest {
 protected:
  static std::string message(const Expected<void>& result) {
    return result ? "no error" : result.error().message();
  }
  static std::string bytes_of(const Initramfs& archive) {
    std::string bytes(archive.size, '\0');
    EXPECT_EQ(::pread(archive.memfd.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(archive.size));
    return bytes;
  }
  void fill(InitramfsBuilder& builder) const {
    ASSERT_TRUE(builder.add_file("/init", write("init", "#!x"), 0755));
    ASSERT_TRUE(builder.add_bytes("/etc/empty", "", 0600));
    ASSERT_TRUE(builder.add_bytes("/etc/os-release", "NAME=guest\n", 0644));
    ASSERT_TRUE(builder.add_directory("/tmp", 01777));
    ASSERT_TRUE(builder.add_symlink("/var/run", "../run"));
    ASSERT_TRUE(builder.add_device_node("/dev/console", 5, 1, 0600));
    ASSERT_TRUE(builder.add_device_node("/dev/null", 1, 3, 0666));
  }
};

TEST_F(InitramfsTest, SystemCpioListsWhatWasAdded) {
  InitramfsBuilder builder;
  fill(builder);
  const auto archive = builder.build();
  ASSERT_TRUE(archive) << archive.error().to_string();
  EXPECT_EQ(archive->size % 4, 0U);
  const auto names = run("cpio --quiet -it < " + save(*archive));
  EXPECT_EQ(names.output,
            "dev\ndev/console\ndev/null\netc\netc/empty\netc/os-release\ninit\ntmp\nvar\nvar/run\n");
  const auto listing = run("cpio --quiet -itvn < " + path("archive.cpio")).output;
  EXPECT_THAT(listing, ::testing::ContainsRegex("crw------- +1 0 +0 +5, +1 Jan +1 +1970 dev/console"));
  EXPECT_THAT(listing, ::testing::ContainsRegex("crw-rw-rw- +1 0 +0 +1, +3 Jan +1 +1970 dev/null"));
  EXPECT_THAT(listing, ::testing::ContainsRegex("-rw------- +1 0 +0 +0 Jan +1 +1970 etc/empty"));
  EXPECT_THAT(listing, ::testing::ContainsRegex("drwxrwxrwt +2 0 +0 +0 Jan +1 +1970 tmp"));
  EXPECT_THAT(listing, HasSubstr("var/run -> ../run"));
}

TEST_F(InitramfsTest, SystemCpioUnpacksTheSameContent) {
  InitramfsBuilder builder;
  std::string large(300'001, '\0');
  for (std::size_t i = 0; i < 100'000; ++i) large[i * 3] = static_cast<char>(i * 7);
  ASSERT_TRUE(builder.add_file("/bin/large", write("large", large), 0750));
  ASSERT_TRUE(builder.add_bytes("/one", "1", 0644));
  ASSERT_TRUE(builder.add_symlink("/link", "bin/large"));
  const auto archive = builder.build();
  ASSERT_TRUE(archive);
  const std::string root = unpack(*archive);
  EXPECT_EQ(read_all(root + "/bin/large"), large);
  EXPECT_EQ(read_all(root + "/one"), "1");
  EXPECT_EQ(fs::read_symlink(root + "/link"), "bin/large");
  EXPECT_EQ(fs::status(root + "/bin/large").permissions(), fs::perms(0750));
}

TEST_F(InitramfsTest, ZeroPagesBecomeHolesAndReadAsZeros) {
  constexpr std::size_t kZeros = std::size_t{8} << 20;
  std::string content = "start" + std::string(kZeros, '\0') + "end";
  InitramfsBuilder builder;
  ASSERT_TRUE(builder.add_file("/zeros", write("zeros", content), 0644));
  const auto archive = builder.build();
  ASSERT_TRUE(archive);
  struct stat st = {};
  ASSERT_EQ(::fstat(archive->memfd.get(), &st), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(st.st_size), archive->size);
  EXPECT_LT(st.st_blocks * 512, 1 << 20);
  EXPECT_EQ(read_all(unpack(*archive) + "/zeros"), content);
}

TEST_F(InitramfsTest, EqualInputGivesEqualBytes) {
  for (const auto compression :
       {InitramfsCompression::kNone, InitramfsCompression::kGzip, InitramfsCompression::kZstd}) {
    InitramfsBuilder first;
    fill(first);
    const auto one = first.build(compression);
    ASSERT_TRUE(one) << one.error().to_string();
    // Added in another order, from a file with another time stamp.
    fs::last_write_time(path("init"), fs::file_time_type::clock::now() - std::chrono::hours(5));
    InitramfsBuilder second;
    ASSERT_TRUE(second.add_device_node("/dev/null", 1, 3, 0666));
    fill(second);
    const auto two = second.build(compression);
    ASSERT_TRUE(two) << two.error().to_string();
    EXPECT_EQ(bytes_of(*one), bytes_of(*two));
  }
}

TEST_F(InitramfsTest, CompressedArchivesUnpackWithTheUsualTools) {
  InitramfsBuilder builder;
  fill(builder);
  const std::string plain = bytes_of(*builder.build());
  const auto check = [&](InitramfsCompression compression, const std::string& tool) {
    const auto archive = builder.build(compression);
    ASSERT_TRUE(archive) << archive.error().to_string();
    EXPECT_EQ(archive->size % 4, 0U);
    EXPECT_LT(archive->size, plain.size());
    // The padding behind the compressed stream makes the tools complain, after the content.
    const auto unpacked = run(fmt::format("{} -dc < {} 2>/dev/null", tool, save(*archive)));
    EXPECT_EQ(unpacked.output, plain) << tool;
  };
  check(InitramfsCompression::kGzip, "gzip");
  if (have("/usr/bin/zstd")) check(InitramfsCompression::kZstd, "zstd");
}

TEST_F(InitramfsTest, ResultIsSealed) {
  InitramfsBuilder builder;
  ASSERT_TRUE(builder.add_bytes("/a", "a", 0644));
  const auto archive = builder.build();
  ASSERT_TRUE(archive);
  EXPECT_EQ(::pwrite(archive->memfd.get(), "x", 1, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(archive->memfd.get(), 0), -1);
}

TEST_F(InitramfsTest, EntriesSayWhereContentComesFrom) {
  InitramfsBuilder builder;
  const std::string host = write("x", "12345");
  ASSERT_TRUE(builder.add_file("//bin/./x", host, 0755));
  const auto entries = builder.entries();
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].guest_path, "/bin");
  EXPECT_EQ(entries[0].type, InitramfsEntryType::kDirectory);
  EXPECT_EQ(entries[1].guest_path, "/bin/x");
  EXPECT_EQ(entries[1].host_path, host);
  EXPECT_EQ(entries[1].size, 5U);
  EXPECT_EQ(builder.content_size(), 5U);
}

TEST_F(InitramfsTest, BadGuestPathsAreRefused) {
  InitramfsBuilder builder;
  EXPECT_EQ(message(builder.add_bytes("bin/x", "", 0644)), "guest path 'bin/x' is not absolute");
  EXPECT_THAT(message(builder.add_bytes("", "", 0644)), HasSubstr("is not absolute"));
  EXPECT_EQ(message(builder.add_bytes("/a/../x", "", 0644)), "guest path '/a/../x' must not contain '..'");
  EXPECT_THAT(message(builder.add_bytes("/", "", 0644)), HasSubstr("root folder"));
  EXPECT_THAT(message(builder.add_bytes(std::string("/a\0b", 4), "", 0644)), HasSubstr("zero byte"));
  EXPECT_THAT(message(builder.add_bytes("/TRAILER!!!", "", 0644)), HasSubstr("ends a cpio archive"));
  EXPECT_THAT(message(builder.add_bytes("/" + std::string(256, 'x'), "", 0644)),
              HasSubstr("more than 255 bytes"));
  std::string deep;
  while (deep.size() < 4096) deep += "/abcdefg";
  EXPECT_THAT(message(builder.add_bytes(deep, "", 0644)), HasSubstr("more than 4095 bytes"));
  EXPECT_THAT(message(builder.add_bytes("/x", "", 0100644)), HasSubstr("bits beyond 7777"));
  EXPECT_THAT(message(builder.add_symlink("/x", "")), HasSubstr("target"));
  EXPECT_TRUE(builder.entries().empty());
}

TEST_F(InitramfsTest, OnlyRegularFilesArePacked) {
  InitramfsBuilder builder;
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  EXPECT_THAT(message(builder.add_file("/x", path("fifo"), 0644)), HasSubstr("it is a FIFO"));
  EXPECT_THAT(message(builder.add_file("/x", "/dev/null", 0644)), HasSubstr("it is a device"));
  EXPECT_THAT(message(builder.add_file("/x", folder(), 0644)), HasSubstr("it is a folder"));
  const auto missing = builder.add_file("/x", path("nothing"), 0644);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::kUsage);
  EXPECT_THAT(missing.error().message(), HasSubstr("No such file"));
}

TEST_F(InitramfsTest, EqualDuplicatesAreFine) {
  InitramfsBuilder builder;
  ASSERT_TRUE(builder.add_file("/lib/x", write("a", "same"), 0644));
  ASSERT_TRUE(builder.add_file("/lib/x", write("b", "same"), 0755));
  ASSERT_TRUE(builder.add_bytes("/lib/x", "same", 0644));
  ASSERT_TRUE(builder.add_directory("/lib", 0700));
  ASSERT_TRUE(builder.add_symlink("/l", "t"));
  ASSERT_TRUE(builder.add_symlink("/l", "t"));
  EXPECT_EQ(builder.content_size(), 5U);
  const auto entries = builder.entries();
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[1].mode, 0700U);
  EXPECT_EQ(entries[2].mode, 0755U);
}

TEST_F(InitramfsTest, DifferentDuplicatesNameBoth) {
  InitramfsBuilder builder;
  const std::string first = write("a", "one!");
  const std::string second = write("b", "two!");
  ASSERT_TRUE(builder.add_file("/lib/x", first, 0644));
  EXPECT_EQ(message(builder.add_file("/lib/x", second, 0644)),
            fmt::format("two different things for '/lib/x' in the initramfs: the file '{}' and the file '{}'",
                        first, second));
  EXPECT_THAT(message(builder.add_symlink("/lib/x", "y")), HasSubstr("and a symlink to 'y'"));
  EXPECT_THAT(message(builder.add_bytes("/lib", "z", 0644)), HasSubstr("a folder and 1 generated bytes"));
  EXPECT_THAT(message(builder.add_bytes("/lib/x/y", "z", 0644)), HasSubstr("cannot put '/lib/x/y'"));
}

TEST_F(InitramfsTest, LimitNamesTheSizes) {
  InitramfsBuilder builder(1000);
  ASSERT_TRUE(builder.add_bytes("/a", std::string(600, 'a'), 0644));
  const auto refused = builder.add_bytes("/b", std::string(401, 'b'), 0644);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kHost);
  EXPECT_THAT(refused.error().message(),
              HasSubstr("'/b' of 401 bytes on top of 600 bytes, the limit is 1000 bytes"));
  EXPECT_TRUE(builder.add_bytes("/b", std::string(400, 'b'), 0644));
}

TEST_F(InitramfsTest, FileThatChangesMeanwhileIsAnError) {
  InitramfsBuilder builder;
  ASSERT_TRUE(builder.add_file("/x", write("x", "12345"), 0644));
  write("x", "123");
  const auto archive = builder.build();
  ASSERT_FALSE(archive);
  EXPECT_THAT(archive.error().message(), HasSubstr("was changed while the initramfs was being built"));
}

TEST_F(InitramfsTest, ConcatenatedArchivesStartAtAMultipleOfFour) {
  InitramfsBuilder first;
  ASSERT_TRUE(first.add_bytes("/a", "first", 0644));
  InitramfsBuilder second;
  ASSERT_TRUE(second.add_bytes("/b", "second", 0644));
  for (const auto compression : {InitramfsCompression::kNone, InitramfsCompression::kZstd}) {
    const auto one = first.build(compression);
    const auto two = second.build();
    ASSERT_TRUE(one && two);
    const auto joined = concatenate(*one, *two);
    ASSERT_TRUE(joined) << joined.error().to_string();
    EXPECT_EQ(bytes_of(*joined), bytes_of(*one) + bytes_of(*two));
    EXPECT_EQ(one->size % 4, 0U);
    EXPECT_EQ(joined->entries.size(), 2U);
  }
  const auto refused = concatenate(*first.build(), *second.build(), 300);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kHost);
}

}  // namespace
}  // namespace ktstr::test
