// What tests of clones share: a cache of snapshots of their own, and what must hold of every clone.
#pragma once

#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "common/xxh3.h"
#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {

namespace fs = std::filesystem;

// The caches of images and emulators are everybody's, that of snapshots is this program's own.
class OwnCache {
 public:
  OwnCache() {
    std::string pattern = (fs::temp_directory_path() / "ktstr-vm-test-cache-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) ::abort();
    folder_ = pattern;
    const char* xdg = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    const fs::path shared =
        (xdg != nullptr ? fs::path(xdg) : fs::path(home != nullptr ? home : "/root") / ".cache") / "ktstr-vm";
    fs::create_directories(folder_ / "ktstr-vm");
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(shared, error)) {
      const fs::path name = entry.path().filename();
      if (!name.string().starts_with("snapshots"))
        fs::create_symlink(entry.path(), folder_ / "ktstr-vm" / name);
    }
    ::setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
    if (xdg != nullptr) before_ = xdg;
  }
  OwnCache(const OwnCache&) = delete;
  OwnCache& operator=(const OwnCache&) = delete;
  ~OwnCache() {
    if (before_.empty()) {
      ::unsetenv("XDG_CACHE_HOME");
    } else {
      ::setenv("XDG_CACHE_HOME", before_.c_str(), 1);
    }
    std::error_code error;
    fs::remove_all(folder_, error);
  }
  fs::path snapshots() const { return folder_ / "ktstr-vm" / "snapshots"; }

 private:
  fs::path folder_;
  std::string before_;
};

class Clones : public VmTest {
 protected:
  static void SetUpTestSuite() { cache_ = std::make_unique<OwnCache>(); }
  static void TearDownTestSuite() { cache_.reset(); }
  void SetUp() override {
    VmTest::SetUp();
    if (kernel("7.2").empty()) GTEST_SKIP() << "not available: kernel 7.2";
  }

  static nlohmann::json clone_of(const VmRun& run) {
    return run.result.is_object() ? run.result.value("clone", nlohmann::json::object())
                                  : nlohmann::json::object();
  }
  // A list in it; one that is empty is left out there.
  static nlohmann::json list(const nlohmann::json& in, const char* name) {
    return in.value(name, nlohmann::json::array());
  }
  static std::string point_of(const VmRun& run) { return clone_of(run).value("point", ""); }

  // Three workers a CPU for two seconds of the guest, and nothing that a busy host could spoil: how much they
  // get is not asked.
  std::string load() const {
    const std::string path = (folder() / "load.textproto").string();
    std::ofstream(path) << "duration: '60s' steps { cgroups { name: 'a' works { workers_per_cpu: 2 spin {} } "
                           "works { workers_per_cpu: 1 sleep_and_run { sleep: '5ms' run: '2ms' } } } "
                           "hold { fixed: '2s' } }";
    return path;
  }
  // Under that load, unless the arguments say otherwise.
  VmRun with_clone(const std::string& mode, std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--clone", mode});
    if (std::ranges::find(arguments, "--scenario") == arguments.end() &&
        std::ranges::find(arguments, "--duration") == arguments.end())
      arguments.insert(arguments.end(), {"--scenario", load()});
    return run_on("7.2", std::move(arguments));
  }
  // Runs until the guest of these arguments is kept at `point`, at most three times: a scheduler's is kept
  // when it is run the second time.
  void keep(const std::string& point, const std::vector<std::string>& arguments) const {
    for (int i = 0; i < 3; ++i) {
      std::vector<std::string> all = arguments;
      all.insert(all.end(), {"--clone", "auto"});
      const VmRun run = run_on("7.2", all, [this](pid_t pid) {
        if (wait_for_output(pid, "step '")) ::kill(pid, SIGINT);
      });
      if (point_of(run) == point) return;
      for (const auto& saved : list(clone_of(run), "saved")) {
        if (saved.value("point", "") == point && saved.value("failed", "").empty()) return;
      }
    }
    ADD_FAILURE() << "no guest is kept at " << point;
  }
  static void expect_pass(const VmRun& run, const std::string& point) {
    EXPECT_EQ(run.exit_code, 0) << run.describe();
    EXPECT_EQ(point_of(run), point) << run.describe();
    ASSERT_TRUE(run.result.is_object());
    EXPECT_TRUE(list(run.result["guest"], "warnings").empty()) << run.describe();
    const auto& frames = run.result["host"]["frames"];
    EXPECT_EQ(frames["lost"], 0U) << frames;
    EXPECT_EQ(frames["breaks"], 0U) << frames;
    EXPECT_EQ(frames["resyncs"], 0U) << frames;
    const std::string console = slurp(run.folder / "console.log");
    for (const char* word : {"self-detected stall", "detected stalls", "soft lockup",
                             "BUG:", "Marking clocksource", "blocked for more than"})
      EXPECT_EQ(console.find(word), std::string::npos) << console;
  }
  static std::string slurp(const fs::path& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // Every kept guest's memory, by its file.
  static std::map<std::string, std::string> rams() {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(cache_->snapshots())) {
      if (const fs::path ram = entry.path() / "ram"; fs::exists(ram)) all[ram] = Xxh3::hex_of(slurp(ram));
    }
    return all;
  }
  static void clear() { fs::remove_all(cache_->snapshots()); }

  inline static std::unique_ptr<OwnCache> cache_;
};

}  // namespace ktstr::vmtest
