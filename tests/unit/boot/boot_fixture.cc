#include "tests/unit/boot/boot_fixture.h"

#include <sys/sendfile.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include <fmt/format.h>

namespace ktstr::test {

namespace fs = std::filesystem;

BootTest::BootTest() {
  std::string name = fs::temp_directory_path().string() + "/ktstr-boot-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
  folder_ = name;
}

BootTest::~BootTest() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

std::string BootTest::write(std::string_view name, std::string_view content) const {
  const std::string file = path(name);
  fs::create_directories(fs::path(file).parent_path());
  std::ofstream(file, std::ios::binary) << content;
  return file;
}

std::string BootTest::make_library(std::string_view name, std::string_view arguments) const {
  return make_program(name, "-shared -fPIC " + std::string(arguments));
}

std::string BootTest::make_program(std::string_view name, std::string_view arguments) const {
  const std::string file = path(name);
  fs::create_directories(fs::path(file).parent_path());
  // One empty object serves all: to compile it takes longer than to link.
  const std::string object = path("empty.o");
  if (!have(object)) run("gcc -c -x c /dev/null -o " + object);
  const auto result =
      run(fmt::format("cd {} && gcc -nostdlib -nostartfiles -Wl,-e,0 -Wl,--no-as-needed "
                      "-Wl,--allow-shlib-undefined -Wl,-rpath-link,{} -o '{}' empty.o {}",
                      folder_, folder_, file, arguments));
  EXPECT_EQ(result.status, 0) << result.output;
  return file;
}

std::string BootTest::save(const Initramfs& archive) const {
  std::string file = path("archive.cpio");
  std::string bytes(archive.size, '\0');
  EXPECT_EQ(::pread(archive.memfd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(archive.size));
  std::ofstream(file, std::ios::binary) << bytes;
  return file;
}

std::string BootTest::unpack(const Initramfs& archive) const {
  const std::string file = save(archive);
  std::string target = path("unpacked");
  fs::create_directories(target);
  const auto result = run(fmt::format("cd {} && cpio --quiet -idm < {}", target, file));
  EXPECT_EQ(result.status, 0) << result.output;
  return target;
}

CommandResult run(const std::string& command) {
  CommandResult result;
  std::FILE* pipe = ::popen(("{ " + command + "; } 2>&1").c_str(), "re");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer = {};
  for (std::size_t got = 0; (got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    result.output.append(buffer.data(), got);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

std::string read_all(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

bool have(const std::string& path) {
  return ::access(path.c_str(), R_OK) == 0;
}

std::set<std::string> traced_files(const std::string& program, const std::string& environment) {
  std::set<std::string> files;
  std::istringstream lines(run(fmt::format("LD_TRACE_LOADED_OBJECTS=1 {} {}", environment, program)).output);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t start = line.find('/');
    if (start == std::string::npos) continue;
    std::size_t from = line.find("=> ");
    from = from == std::string::npos ? start : from + 3;
    files.insert(fs::canonical(line.substr(from, line.find(" (", from) - from)).string());
  }
  return files;
}

std::set<std::string> closure_files(const ElfClosure& closure) {
  std::set<std::string> files;
  for (const ClosureFile& file : closure.files) files.insert(fs::canonical(file.host_path).string());
  return files;
}

}  // namespace ktstr::test
