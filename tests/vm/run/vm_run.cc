#include "tests/vm/run/vm_run.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

std::string slurp(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

pid_t spawn(const std::vector<std::string>& argv, const fs::path& out, const fs::path& err) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  std::vector<char*> raw;
  for (const std::string& argument : argv) raw.push_back(const_cast<char*>(argument.c_str()));
  raw.push_back(nullptr);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, raw[0], &actions, nullptr, raw.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  return error == 0 ? pid : -1;
}

bool is_alive(pid_t pid) {
  siginfo_t info = {};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

std::string last_line_of(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

// A boot that took all of its time without a word: tests/nested/unless_stood_still looks for what is printed
// then.
bool stood_still(const VmRun& run) {
  constexpr std::uint64_t kLongBootNs = 50'000'000'000;
  std::error_code error;
  return run.exit_code == 10 && run.reason_kind() == "boot-timeout" && run.result.is_object() &&
         run.result.contains("host") && run.result["host"].value("wall_ns", std::uint64_t{0}) > kLongBootNs &&
         fs::file_size(run.folder / "console.log", error) == 0;
}

}  // namespace

std::string VmRun::reason_kind() const {
  return result.is_object() && result.contains("reasons") ? result["reasons"][0].value("kind", "") : "";
}

std::string VmRun::reason_text() const {
  return result.is_object() && result.contains("reasons") ? result["reasons"][0].value("text", "") : "";
}

std::string VmRun::describe() const {
  return "exit code " + std::to_string(exit_code) + "\n--- stdout\n" + out + "--- stderr\n" + err +
         "--- console (end)\n" + [this] {
           const std::string console = slurp(folder / "console.log");
           return console.substr(console.size() > 3000 ? console.size() - 3000 : 0);
         }();
}

void VmTest::SetUp() {
  std::string pattern = (fs::temp_directory_path() / "ktstr-vm-test-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  folder_ = pattern;
}

void VmTest::TearDown() {
  if (!HasFailure()) fs::remove_all(folder_);
}

std::string VmTest::environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string VmTest::kernel(const std::string& series) {
  std::string variable = "KTSTR_TEST_KERNEL_" + series;
  std::erase(variable, '.');
  std::replace(variable.begin(), variable.end(), '-', '_');
  return environment(variable.c_str());
}

std::string VmTest::example_scheduler(const std::string& name) {
  const std::string path = environment("KTSTR_TEST_SCHEDULERS") + "/" + name;
  return fs::exists(path) ? path : "";
}

std::string VmTest::real_scheduler(const std::string& name) {
  const std::string path = environment("KTSTR_TEST_REAL_SCHEDULERS") + "/" + name;
  return fs::exists(path) ? path : "";
}

bool VmTest::on_kvm() {
  return environment("KTSTR_TEST_ACCEL") == "kvm";
}

VmRun VmTest::run(std::vector<std::string> arguments, const std::function<void(pid_t)>& meanwhile) const {
  const auto given = [&](const std::string& option) {
    return std::any_of(arguments.begin(), arguments.end(),
                       [&](const std::string& argument) { return argument.starts_with(option); });
  };
  // Only runs that name a kernel have a machine; a deterministic one is tcg's.
  if (on_kvm() && given("--kernel") && !given("--accel") && !given("--deterministic"))
    arguments.insert(arguments.end(), {"--accel", "kvm"});
  // Tests that do not say otherwise go on from snapshots where that is possible.
  const std::string clone = environment("KTSTR_TEST_CLONE");
  if (!clone.empty() && given("--kernel") && !given("--clone") && !given("--deterministic"))
    arguments.insert(arguments.end(), {"--clone", clone});
  arguments.insert(arguments.begin(), environment("KTSTR_VM"));
  if (std::find(arguments.begin(), arguments.end(), "--out") == arguments.end()) {
    arguments.insert(arguments.end(), {"--out", (folder_ / "out").string()});
  }
  const pid_t pid = spawn(arguments, folder_ / "stdout", folder_ / "stderr");
  VmRun run;
  if (pid < 0) return run;
  if (meanwhile) meanwhile(pid);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  run.out = slurp(folder_ / "stdout");
  run.err = slurp(folder_ / "stderr");
  run.last_line = last_line_of(run.out);
  std::error_code error;
  const fs::path latest = folder_ / "out" / "latest";
  if (fs::exists(latest, error)) run.folder = fs::canonical(latest, error);
  run.result = nlohmann::json::parse(slurp(run.folder / "result.json"), nullptr, false);
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  if (test != nullptr && stood_still(run))
    std::cout << "stood still before its first message: the guest of " << test->test_suite_name() << '.'
              << test->name() << '\n'
              << run.describe();
  return run;
}

VmRun VmTest::run_on(const std::string& series, std::vector<std::string> arguments,
                     const std::function<void(pid_t)>& meanwhile) const {
  arguments.insert(arguments.begin(), {"--kernel", kernel(series)});
  return run(std::move(arguments), meanwhile);
}

std::string VmTest::seed() {
  if (const std::string given = environment("KTSTR_TEST_SEED"); !given.empty()) return given;
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::uint32_t hash = 2166136261U;  // FNV-1a: the same on every machine
  for (const char c : std::string(test->test_suite_name()) + "." + test->name())
    hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return std::to_string(hash % 10000);
}

VmRun VmTest::run_seeded(const std::string& series, std::vector<std::string> arguments,
                         const std::function<void(pid_t)>& meanwhile) const {
  if (on_kvm()) return run_on(series, std::move(arguments), meanwhile);
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  // scripts/test gathers these lines.
  std::cout << "seed of " << test->test_suite_name() << "." << test->name() << ": " << seed() << std::endl;
  arguments.push_back("--deterministic=" + seed());
  return run_on(series, std::move(arguments), meanwhile);
}

bool VmTest::wait_for_output(pid_t pid, const std::string& text) const {
  using namespace std::chrono_literals;
  // A file has no readiness event for its reader; the program under test bounds the wait by ending.
  while (slurp(folder_ / "stderr").find(text) == std::string::npos) {
    if (!is_alive(pid)) return false;
    std::this_thread::sleep_for(20ms);
  }
  return true;
}

std::vector<pid_t> processes_with(const std::string& marker) {
  std::vector<pid_t> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
    const pid_t pid = static_cast<pid_t>(std::strtol(entry.path().filename().c_str(), nullptr, 10));
    if (pid > 0 && pid != ::getpid() && slurp(entry.path() / "cmdline").find(marker) != std::string::npos)
      found.push_back(pid);
  }
  return found;
}

}  // namespace ktstr::vmtest
