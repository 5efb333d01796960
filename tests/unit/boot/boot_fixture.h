// What the tests of host/boot share: a folder of their own, running tools, making small ELF files.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "host/boot/elf_closure.h"
#include "host/boot/initramfs.h"

namespace ktstr::test {

// A test with a temporary folder that is removed at its end.
class BootTest : public ::testing::Test {
 protected:
  BootTest();
  ~BootTest() override;
  BootTest(const BootTest&) = delete;
  BootTest& operator=(const BootTest&) = delete;

  // Absolute path of `name` in the test's folder.
  std::string path(std::string_view name) const { return folder_ + "/" + std::string(name); }
  // Writes a file, making its folders; returns its path.
  std::string write(std::string_view name, std::string_view content) const;

  // gcc without standard libraries, on an empty source: a shared library or a program that needs just what
  // `arguments` says. Paths in `arguments` are relative to the test's folder. Returns the path of `name`.
  std::string make_library(std::string_view name, std::string_view arguments) const;
  std::string make_program(std::string_view name, std::string_view arguments) const;

  // Writes the archive to a file and returns its path.
  std::string save(const Initramfs& archive) const;
  // Unpacks with the system's cpio into a new folder and returns that.
  std::string unpack(const Initramfs& archive) const;

  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
};

struct CommandResult {
  int status = -1;  // exit status, -1 when a signal ended it
  std::string output;
};
// Runs a shell command; its standard error goes to the output.
CommandResult run(const std::string& command);

std::string read_all(const std::string& path);
bool have(const std::string& path);

// The files that ld.so says it would load, symlinks resolved: `environment` as "A=b C=d".
std::set<std::string> traced_files(const std::string& program, const std::string& environment = "");
// The host files of a closure, symlinks resolved.
std::set<std::string> closure_files(const ElfClosure& closure);

}  // namespace ktstr::test
