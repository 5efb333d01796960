// Runs the real ktstr-vm as a user would and looks at what came back: exit code, output, result.json.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace ktstr::vmtest {

// One finished execution.
struct VmRun {
  int exit_code = -1;            // 128 + signal when it was killed
  std::string out;               // standard output
  std::string err;               // standard error
  std::string last_line;         // of standard output
  nlohmann::json result;         // result.json, null when there is none
  std::filesystem::path folder;  // of the run; empty when there is none

  // Text of the first reason, or "".
  std::string reason_kind() const;
  std::string reason_text() const;
  // Everything a failed assertion should show.
  std::string describe() const;
};

// Fixture: a results folder of its own, removed when the test passed; kernels and schedulers from the
// environment that scripts/test sets. A test whose kernel or scheduler is missing is skipped by name.
class VmTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // KTSTR_TEST_ACCEL=kvm: runs are on the kvm machine, in the guest of scripts/nested-kvm.
  static bool on_kvm();
  // An environment variable, "" when it is not set.
  static std::string environment(const char* name);
  // Folder of a packaged kernel: series "7.2", "6.18", or "6.12", which Debian builds without sched_ext;
  // "6.12-BUILT" is the one that scripts/build-kernel makes.
  static std::string kernel(const std::string& series);
  // A scheduler built from the kernel's own source, e.g. "scx_simple"; a real one of shared/schedulers.
  static std::string example_scheduler(const std::string& name);
  static std::string real_scheduler(const std::string& name);

  // Runs ktstr-vm with `arguments` (and --out, and --clone as KTSTR_TEST_CLONE has it). `meanwhile` is called
  // with its pid once it runs.
  VmRun run(std::vector<std::string> arguments, const std::function<void(pid_t)>& meanwhile = {}) const;
  // The same for a kernel of `series`.
  VmRun run_on(const std::string& series, std::vector<std::string> arguments,
               const std::function<void(pid_t)>& meanwhile = {}) const;

  // The same with an instruction clock and this test's seed: tests of function, which the host's load must
  // not change. On the kvm machine an ordinary run: a real CPU has no such clock.
  VmRun run_seeded(const std::string& series, std::vector<std::string> arguments,
                   const std::function<void(pid_t)>& meanwhile = {}) const;
  // Of the running test: KTSTR_TEST_SEED, or a number that follows from the test's name.
  static std::string seed();

  // Waits until the running ktstr-vm has written `text` to its standard error; the file is complete lines.
  // False when ktstr-vm ended first.
  bool wait_for_output(pid_t pid, const std::string& text) const;
  std::filesystem::path folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

// Skips the calling test unless the value is there.
#define KTSTR_NEEDS(variable, expression)    \
  const std::string variable = (expression); \
  if ((variable).empty()) GTEST_SKIP() << "not available: " #expression

// pids of QEMU processes that descend from this test's ktstr-vm runs: their command line names `marker`.
std::vector<pid_t> processes_with(const std::string& marker);

}  // namespace ktstr::vmtest
