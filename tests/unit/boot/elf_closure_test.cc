#include "host/boot/elf_closure.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/unit/boot/boot_fixture.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ElfClosureTest : public BootTest {
 protected:
  static std::vector<std::string> guest_paths(const ElfClosure& closure) {
    std::vector<std::string> paths;
    for (const ClosureFile& file : closure.files) paths.push_back(file.guest_path);
    return paths;
  }
  // The closure's files must be those that ld.so itself names.
  static void expect_same_as_loader(const std::string& program, const LibrarySearch& search = {}) {
    const auto closure = elf_closure(program, search);
    ASSERT_TRUE(closure) << closure.error().to_string() << "\n" << closure.error().detail();
    const std::string environment =
        search.library_path.empty() ? "" : "LD_LIBRARY_PATH='" + search.library_path + "'";
    std::set<std::string> expected = traced_files(program, environment);
    // ld.so leaves itself out when no library asks for it.
    expected.insert(fs::canonical(closure->interpreter).string());
    EXPECT_EQ(closure_files(*closure), expected) << program;
  }
  static Error error_of(const std::string& program, const LibrarySearch& search = {}) {
    auto closure = elf_closure(program, search);
    EXPECT_FALSE(closure);
    return closure ? Error(ErrorCode::kHost, "no error") : closure.error();
  }
};

TEST_F(ElfClosureTest, EqualsLoaderForInstalledPrograms) {
  std::size_t tried = 0;
  for (const char* program :
       {"/bin/ls", "/bin/bash", "/bin/sh", "/usr/bin/python3.11", "/usr/bin/git", "/usr/bin/gdb",
        "/usr/bin/gcc", "/usr/bin/cpio", "/usr/bin/ninja", "/usr/bin/ssh", "/usr/bin/perl",
        "/usr/bin/stress-ng", "/usr/bin/qemu-system-x86_64", "/usr/bin/clang-14"}) {
    if (!have(program)) continue;
    ++tried;
    expect_same_as_loader(fs::canonical(program).string());
  }
  EXPECT_GE(tried, 3U);
}

TEST_F(ElfClosureTest, StaticProgramNeedsNothing) {
  const std::string program = make_program("static", "-static");
  const auto closure = elf_closure(program);
  ASSERT_TRUE(closure) << closure.error().to_string();
  EXPECT_THAT(closure->files, IsEmpty());
  EXPECT_THAT(closure->interpreter, IsEmpty());
  const auto pie = elf_closure(make_program("static-pie", "-static-pie"));
  ASSERT_TRUE(pie) << pie.error().to_string();
  EXPECT_THAT(pie->files, IsEmpty());
}

TEST_F(ElfClosureTest, RunpathIsNotInherited) {
  make_library("lib/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  make_library("lib/libmid.so.1", "-Wl,-soname,libmid.so.1 lib/libleaf.so.1");
  const std::string program =
      make_program("bin/scx_x", fmt::format("-Wl,--enable-new-dtags,-rpath,{} lib/libmid.so.1", path("lib")));
  const Error error = error_of(program, {.role = "scheduler"});
  EXPECT_EQ(error.code(), ErrorCode::kStartFailed);
  EXPECT_EQ(error.message(),
            "scheduler 'scx_x' needs libleaf.so.1 (via libmid.so.1), which is not installed");
  EXPECT_THAT(error.detail(), HasSubstr("/lib/x86_64-linux-gnu/libleaf.so.1"));
}

TEST_F(ElfClosureTest, RpathIsInheritedAlongTheChain) {
  make_library("lib/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  make_library("lib/libmid.so.1", "-Wl,-soname,libmid.so.1 lib/libleaf.so.1");
  const std::string program = make_program(
      "bin/scx_x", fmt::format("-Wl,--disable-new-dtags,-rpath,{} lib/libmid.so.1", path("lib")));
  expect_same_as_loader(program);
  const auto closure = elf_closure(program);
  ASSERT_TRUE(closure);
  ASSERT_EQ(closure->files.size(), 3U);
  EXPECT_THAT(closure->files[2].needed_by, ElementsAre("scx_x", "libmid.so.1"));
}

TEST_F(ElfClosureTest, RpathIsIgnoredByALibraryWithRunpath) {
  make_library("lib/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  make_library("lib/libmid.so.1",
               "-Wl,-soname,libmid.so.1 -Wl,--enable-new-dtags,-rpath,/nonexistent lib/libleaf.so.1");
  const std::string program = make_program(
      "bin/scx_x", fmt::format("-Wl,--disable-new-dtags,-rpath,{} lib/libmid.so.1", path("lib")));
  EXPECT_THAT(error_of(program).message(), HasSubstr("libleaf.so.1 (via libmid.so.1)"));
}

TEST_F(ElfClosureTest, RpathBeatsLibraryPathBeatsRunpath) {
  for (const char* folder : {"a", "b"}) {
    make_library(fmt::format("{}/libleaf.so.1", folder), "-Wl,-soname,libleaf.so.1");
  }
  const std::string old_tag =
      make_program("bin/old", fmt::format("-Wl,--disable-new-dtags,-rpath,{} a/libleaf.so.1", path("a")));
  const std::string new_tag =
      make_program("bin/new", fmt::format("-Wl,--enable-new-dtags,-rpath,{} a/libleaf.so.1", path("a")));
  const LibrarySearch search{.library_path = path("b")};
  expect_same_as_loader(old_tag, search);
  expect_same_as_loader(new_tag, search);
  EXPECT_EQ(elf_closure(old_tag, search)->files.back().guest_path, path("a/libleaf.so.1"));
  EXPECT_EQ(elf_closure(new_tag, search)->files.back().guest_path, path("b/libleaf.so.1"));
}

TEST_F(ElfClosureTest, OriginFollowsTheProgramIntoTheGuest) {
  make_library("lib/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  make_library("lib/libmid.so.1", "-Wl,-soname,libmid.so.1 -Wl,-rpath,'$ORIGIN' lib/libleaf.so.1");
  const std::string program = make_program("bin/x", "-Wl,-rpath,'${ORIGIN}/../lib' lib/libmid.so.1");
  expect_same_as_loader(program);
  const auto closure = elf_closure(program, {.guest_path = "/opt/x/bin/x"});
  ASSERT_TRUE(closure) << closure.error().to_string();
  EXPECT_THAT(guest_paths(*closure), ElementsAre("/lib64/ld-linux-x86-64.so.2", "/opt/x/lib/libmid.so.1",
                                                 "/opt/x/lib/libleaf.so.1"));
  EXPECT_THAT(closure->directories, ElementsAre("/opt/x/bin"));
}

TEST_F(ElfClosureTest, OriginIsWhereTheProgramReallyIs) {
  make_library("real/lib/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  make_program("real/bin/x", "-Wl,-rpath,'$ORIGIN/../lib' real/lib/libleaf.so.1");
  fs::create_symlink("real/bin/x", path("x"));
  expect_same_as_loader(path("x"));
}

TEST_F(ElfClosureTest, UnknownTokensAreLeftAlone) {
  make_library("$ORIGINAL/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  const std::string program =
      make_program("x", fmt::format("-Wl,-rpath,'{}/$ORIGINAL' './$ORIGINAL/libleaf.so.1'", folder()));
  expect_same_as_loader(program);
}

TEST_F(ElfClosureTest, CyclesEnd) {
  make_library("lib/libb.so", "-Wl,-soname,libb.so");
  make_library("lib/liba.so", "-Wl,-soname,liba.so lib/libb.so");
  make_library("lib/libb.so", "-Wl,-soname,libb.so lib/liba.so");
  const std::string program =
      make_program("x", fmt::format("-Wl,--disable-new-dtags,-rpath,{} lib/liba.so", path("lib")));
  expect_same_as_loader(program);
}

TEST_F(ElfClosureTest, DeepChainsAreFollowed) {
  constexpr int kLinks = 12;
  make_library("lib/lib0.so", "-Wl,-soname,lib0.so");
  for (int i = 1; i < kLinks; ++i) {
    make_library(fmt::format("lib/lib{}.so", i), fmt::format("-Wl,-soname,lib{}.so lib/lib{}.so", i, i - 1));
  }
  const std::string program = make_program(
      "x", fmt::format("-Wl,--disable-new-dtags,-rpath,{} lib/lib{}.so", path("lib"), kLinks - 1));
  expect_same_as_loader(program);
  EXPECT_EQ(elf_closure(program)->files.back().needed_by.size(), static_cast<std::size_t>(kLinks));
}

TEST_F(ElfClosureTest, SymlinksArePackedUnderTheNameThatIsOpened) {
  make_library("store/libleaf.so.1.2.3", "-Wl,-soname,libleaf.so.1");
  fs::create_directories(path("lib"));
  fs::create_symlink("../store/libleaf.so.1.2.3", path("lib/libleaf.so.1"));
  const std::string program = make_program("x", fmt::format("-Wl,-rpath,{} lib/libleaf.so.1", path("lib")));
  expect_same_as_loader(program);
  EXPECT_EQ(elf_closure(program)->files.back().guest_path, path("lib/libleaf.so.1"));
}

TEST_F(ElfClosureTest, TheSameFileUnderTwoNamesBecomesALink) {
  make_library("lib/libone.so", "");
  fs::create_symlink("libone.so", path("lib/libtwo.so"));
  // No DT_SONAME: DT_NEEDED is what the linker was given, here two names of one file.
  const std::string program =
      make_program("x", fmt::format("-Wl,-rpath,{} -Llib -l:libone.so -l:libtwo.so", path("lib")));
  expect_same_as_loader(program);
  const auto closure = elf_closure(program);
  ASSERT_TRUE(closure);
  ASSERT_EQ(closure->files.size(), 3U);
  EXPECT_EQ(closure->files[2].guest_path, path("lib/libtwo.so"));
  EXPECT_EQ(closure->files[2].link_to, path("lib/libone.so"));
}

TEST_F(ElfClosureTest, ALoadedSonameWinsOverTheSearchPath) {
  make_library("a/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  make_library("b/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  make_library("lib/libmid.so.1",
               fmt::format("-Wl,-soname,libmid.so.1 -Wl,-rpath,{} b/libleaf.so.1", path("b")));
  const std::string program = make_program(
      "x", fmt::format("-Wl,-rpath,{}:{} lib/libmid.so.1 a/libleaf.so.1", path("lib"), path("a")));
  expect_same_as_loader(program);
}

TEST_F(ElfClosureTest, RelativeNamesReferToTheWorkingFolder) {
  make_library("lib/libplain.so", "");
  const std::string program = make_program("x", "lib/libplain.so");
  const auto closure =
      elf_closure(program, {.working_directory = folder(), .guest_working_directory = "/work"});
  ASSERT_TRUE(closure) << closure.error().to_string();
  EXPECT_EQ(closure->files.back().guest_path, "/work/lib/libplain.so");
  EXPECT_EQ(closure_files(*closure).count(fs::canonical(path("lib/libplain.so")).string()), 1U);
}

TEST_F(ElfClosureTest, LibrariesOfOtherArchitecturesArePassedOver) {
  make_library("good/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  std::string foreign = read_all(path("good/libleaf.so.1"));
  foreign[18] = '\xb7';  // e_machine: AArch64
  write("bad/libleaf.so.1", foreign);
  const std::string program =
      make_program("x", fmt::format("-Wl,-rpath,{}:{} good/libleaf.so.1", path("bad"), path("good")));
  expect_same_as_loader(program);
  fs::remove(path("good/libleaf.so.1"));
  EXPECT_THAT(error_of(program).detail(), HasSubstr("passed over: it is for AArch64"));
}

TEST_F(ElfClosureTest, ALinkerScriptInPlaceOfALibraryIsNamed) {
  make_library("lib/libleaf.so.1", "-Wl,-soname,libleaf.so.1");
  const std::string program = make_program("x", fmt::format("-Wl,-rpath,{} lib/libleaf.so.1", path("lib")));
  write("lib/libleaf.so.1", "INPUT(libother.so)\n");
  const Error error = error_of(program);
  EXPECT_EQ(error.code(), ErrorCode::kStartFailed);
  EXPECT_THAT(error.to_string(),
              HasSubstr("libleaf.so.1' is not an ELF file (while loading it for program 'x')"));
}

TEST_F(ElfClosureTest, MissingInterpreterIsNamed) {
  make_library("lib/libleaf.so", "");
  const std::string program = make_program("x", "-Wl,--dynamic-linker,/lib/ld-other.so.1 lib/libleaf.so");
  EXPECT_EQ(error_of(program).message(),
            "program 'x' needs the program interpreter '/lib/ld-other.so.1', which is not installed");
}

TEST_F(ElfClosureTest, FilesThatAreNoProgramsSaySo) {
  EXPECT_THAT(error_of(write("script", "#! /bin/sh -e\necho\n")).message(),
              HasSubstr("is a script for '/bin/sh -e', not an ELF program"));
  EXPECT_THAT(error_of(write("script2", "#!/bin/sh")).message(), HasSubstr("is a script for '/bin/sh'"));
  EXPECT_THAT(error_of(write("empty", "")).message(), HasSubstr("is empty"));
  EXPECT_THAT(error_of(write("text", "hello")).message(), HasSubstr("is not an ELF file"));
  EXPECT_THAT(error_of(write("lib.a", "!<arch>\n")).message(), HasSubstr("static library archive"));
  EXPECT_EQ(error_of(write("text", "hello")).code(), ErrorCode::kStartFailed);
  EXPECT_EQ(error_of(path("nothing")).code(), ErrorCode::kUsage);
  EXPECT_EQ(error_of(folder()).code(), ErrorCode::kUsage);
  EXPECT_THAT(error_of("/dev/null").message(), HasSubstr("is not a regular file"));
  EXPECT_THAT(error_of(make_program("x.o", "-r")).message(), HasSubstr("an object file (.o)"));
}

TEST_F(ElfClosureTest, OtherArchitecturesAreNamed) {
  const std::string program = make_program("x", "-static");
  std::string bytes = read_all(program);
  bytes[18] = '\xf3';  // e_machine: RISC-V
  EXPECT_THAT(error_of(write("riscv", bytes)).message(),
              HasSubstr("is built for RISC-V, the guest is x86-64"));
  bytes[18] = '\xf7';  // BPF
  EXPECT_THAT(error_of(write("bpf", bytes)).message(), HasSubstr("the program that loads this BPF object"));
}

}  // namespace
}  // namespace ktstr::test
