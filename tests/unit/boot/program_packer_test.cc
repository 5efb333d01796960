#include "host/boot/program_packer.h"

#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "host/boot/ld_cache.h"
#include "tests/unit/boot/boot_fixture.h"

namespace ktstr::test {
namespace {

using ::testing::HasSubstr;

class ProgramPackerTest : public BootTest {};

// The real test: what was packed starts in a root folder that holds nothing else.
TEST_F(ProgramPackerTest, PackedProgramsRunInAnEmptyRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  InitramfsBuilder builder;
  ProgramPacker packer(builder);
  for (const char* program : {"/bin/ls", "/bin/bash"}) {
    const auto closure = packer.add_program(program, program, "payload");
    ASSERT_TRUE(closure) << closure.error().to_string();
  }
  if (have("/usr/bin/cpio")) {
    ASSERT_TRUE(packer.add_program("/elsewhere/cpio", "/usr/bin/cpio", "payload"));
  }
  ASSERT_TRUE(packer.finish());
  const auto archive = builder.build();
  ASSERT_TRUE(archive) << archive.error().to_string();
  const std::string root = unpack(*archive);
  const auto listed = run(fmt::format("chroot {} /bin/ls -d /bin /etc/ld.so.cache", root));
  EXPECT_EQ(listed.output, "/bin\n/etc/ld.so.cache\n");
  EXPECT_EQ(run(fmt::format("chroot {} /bin/bash -c 'echo $((6 * 7))'", root)).output, "42\n");
  if (have("/usr/bin/cpio")) {
    EXPECT_THAT(run(fmt::format("chroot {} /elsewhere/cpio --version", root)).output, HasSubstr("GNU cpio"));
  }
}

TEST_F(ProgramPackerTest, LibrariesFromTheHostsCacheGetACacheInTheGuest) {
  make_library("odd/libodd.so.1", "-Wl,-soname,libodd.so.1");
  write("answer.c", "#include <stdio.h>\nint main(void) { puts(\"found\"); return 0; }\n");
  const auto made =
      run(fmt::format("cd {} && gcc answer.c -Wl,--no-as-needed odd/libodd.so.1 -o answer", folder()));
  ASSERT_EQ(made.status, 0) << made.output;
  std::map<std::string, std::string> known = {{"libodd.so.1", path("odd/libodd.so.1")}};
  const std::string cache = write("cache", LdCache::encode(known));

  InitramfsBuilder builder;
  ProgramPacker packer(builder);
  LibrarySearch search{.role = "scheduler", .guest_path = "/bin/answer", .cache_path = cache};
  const auto closure = packer.add_program(path("answer"), search);
  ASSERT_TRUE(closure) << closure.error().to_string();
  ASSERT_TRUE(packer.finish());
  const auto archive = builder.build();
  ASSERT_TRUE(archive);
  if (::geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  EXPECT_EQ(run(fmt::format("chroot {} /bin/answer", unpack(*archive))).output, "found\n");
}

TEST_F(ProgramPackerTest, OriginAndParentFoldersWorkInTheGuest) {
  make_library("build/lib/libnear.so.1", "-Wl,-soname,libnear.so.1");
  write("answer.c", "#include <stdio.h>\nint main(void) { puts(\"near\"); return 0; }\n");
  const auto made =
      run(fmt::format("cd {} && mkdir -p build/bin && gcc answer.c -Wl,--no-as-needed "
                      "-Wl,-rpath,'$ORIGIN/../x/../lib' build/lib/libnear.so.1 -o build/bin/answer",
                      folder()));
  ASSERT_EQ(made.status, 0) << made.output;
  ASSERT_EQ(run("mkdir " + path("build/x")).status, 0);
  InitramfsBuilder builder;
  ProgramPacker packer(builder);
  const auto closure = packer.add_program("/opt/bin/answer", path("build/bin/answer"), "scheduler");
  ASSERT_TRUE(closure) << closure.error().to_string();
  const auto archive = builder.build();
  ASSERT_TRUE(archive);
  if (::geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  // ld.so learns its $ORIGIN from /proc/self/exe.
  const std::string root = unpack(*archive);
  if (run(fmt::format("unshare --mount true && mkdir {}/proc", root)).status != 0)
    GTEST_SKIP() << "no unshare";
  const auto result = run(fmt::format(
      "unshare --mount sh -c 'mount --rbind /proc {}/proc && chroot {} /opt/bin/answer'", root, root));
  EXPECT_EQ(result.output, "near\n");
}

TEST_F(ProgramPackerTest, StaticProgramsNeedNoCache) {
  InitramfsBuilder builder;
  ProgramPacker packer(builder);
  ASSERT_TRUE(packer.add_program("/bin/x", make_program("x", "-static"), "scheduler"));
  ASSERT_TRUE(packer.finish());
  EXPECT_EQ(builder.entries().size(), 2U);
}

TEST_F(ProgramPackerTest, ErrorsSayWhatWasBeingPacked) {
  InitramfsBuilder builder;
  ProgramPacker packer(builder);
  ASSERT_TRUE(builder.add_bytes("/bin/x", "other", 0755));
  const auto refused = packer.add_program("/bin/x", make_program("x", "-static"), "scheduler");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("(while packing scheduler"));
}

}  // namespace
}  // namespace ktstr::test
