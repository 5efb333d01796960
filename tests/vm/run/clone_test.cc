// Runs whose guest goes on from a snapshot: the same things happen in them as in a guest that has booted.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

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

  VmRun with_clone(const std::string& mode, std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--clone", mode});
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
  static void clear() { fs::remove_all(cache_->snapshots()); }

  static std::unique_ptr<OwnCache> cache_;
};
std::unique_ptr<OwnCache> Clones::cache_;

TEST_F(Clones, AMissBootsAndKeepsTheGuestAndTheNextRunGoesOnFromThere) {
  clear();
  const VmRun first = with_clone("auto", {});
  expect_pass(first, "");
  EXPECT_FALSE(clone_of(first).value("booted_because", "").empty());
  ASSERT_EQ(list(clone_of(first), "saved").size(), 1U) << first.describe();
  EXPECT_EQ(list(clone_of(first), "saved")[0]["failed"], "");
  EXPECT_TRUE(list(first.result["host"], "warnings").empty()) << first.describe();
  const VmRun second = with_clone("auto", {});
  expect_pass(second, "hello");
  EXPECT_EQ(clone_of(second)["snapshot"], list(clone_of(first), "saved")[0]["key"]);
  EXPECT_EQ(clone_of(second)["made_by"], first.folder.filename().string());
  EXPECT_NE(second.out.find("clone of"), std::string::npos) << second.out;
  expect_pass(with_clone("never", {}), "");
}

TEST_F(Clones, ASchedulerIsSentToTheGuestAndKeptAttached) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  keep("hello", {});
  const VmRun sent = with_clone("auto", {"--scheduler", scheduler});
  expect_pass(sent, "hello");
  EXPECT_EQ(sent.result["guest"]["scheduler"]["ops"], "simple") << sent.describe();
  const VmRun kept = with_clone("auto", {"--scheduler", scheduler});
  expect_pass(kept, "");
  ASSERT_EQ(list(clone_of(kept), "saved").size(), 1U) << kept.describe();
  EXPECT_EQ(list(clone_of(kept), "saved")[0]["point"], "attached");
  EXPECT_EQ(list(clone_of(kept), "saved")[0]["failed"], "");
  const VmRun clone = with_clone("auto", {"--scheduler", scheduler, "--scenario", "cpuset_isolation"});
  expect_pass(clone, "attached");
  EXPECT_EQ(clone.result["guest"]["scheduler"]["ops"], "simple") << clone.describe();
  EXPECT_EQ(clone.result["guest"]["scheduler"]["clean_exit"], true) << clone.describe();
}

TEST_F(Clones, AlwaysWithoutASnapshotIsExit20AndNamesWhatDiffers) {
  keep("hello", {});
  const VmRun run = with_clone("always", {"--memory", "700M"});
  EXPECT_EQ(run.exit_code, 20) << run.describe();
  EXPECT_NE(run.err.find("memory"), std::string::npos) << run.err;
  EXPECT_TRUE(run.last_line.ends_with(" result=-")) << run.last_line;
  EXPECT_EQ(with_clone("always", {"--deterministic"}).exit_code, 2);
}

TEST_F(Clones, ClonesHaveRandomNumbersAndAWallClockOfTheirOwn) {
  KTSTR_NEEDS(reader, environment("KTSTR_READ_RANDOM"));
  keep("hello", {});
  std::map<std::string, std::set<std::string>> seen;
  constexpr std::size_t kClones = 3;
  for (std::size_t i = 0; i < kClones; ++i) {
    // It leaves without attaching; what it has printed is all we want.
    const VmRun run = with_clone("always", {"--scheduler", reader});
    EXPECT_EQ(run.exit_code, 12) << run.describe();
    EXPECT_EQ(point_of(run), "hello");
    std::istringstream lines(slurp(run.folder / "scheduler.log"));
    std::string key, value;
    while (lines >> key >> value) {
      if (key == "realtime") {
        EXPECT_LE(std::abs(std::stoll(value) - static_cast<long long>(::time(nullptr))), 60)
            << run.describe();
      } else if (key != "monotonic") {
        seen[key].insert(value);
      }
    }
  }
  for (const char* key : {"getrandom", "at_random", "uuid", "stack"})
    EXPECT_EQ(seen[key].size(), kClones) << key;
}

TEST_F(Clones, AStalledSchedulerIsFrozenAndDumped) {
  KTSTR_NEEDS(scheduler, environment("KTSTR_SCHED"));
  const std::vector<std::string> arguments = {
      "--scheduler", scheduler, "--scheduler-args", "--stall-after 3 --timeout-ms 2000", "--duration", "20s"};
  keep("attached", arguments);
  const VmRun run = with_clone("always", arguments);
  EXPECT_EQ(run.exit_code, 4) << run.describe();
  EXPECT_EQ(point_of(run), "attached");
  ASSERT_FALSE(list(run.result, "dumps").empty()) << run.describe();
  EXPECT_EQ(list(run.result, "dumps")[0]["trap"], "SCX_EXIT_ERROR_STALL") << list(run.result, "dumps");
  EXPECT_GT(list(run.result, "dumps")[0]["tasks"].get<int>(), 10);
  EXPECT_TRUE(fs::exists(run.folder / "dump-1.txt"));
}

TEST_F(Clones, APanicIsExit3) {
  const std::vector<std::string> arguments = {"--append", "ktstr.inject=panic"};
  keep("hello", arguments);
  const VmRun run = with_clone("always", arguments);
  EXPECT_EQ(run.exit_code, 3) << run.describe();
  EXPECT_EQ(point_of(run), "hello");
  EXPECT_NE(run.reason_text().find("sysrq triggered crash"), std::string::npos) << run.reason_text();
}

TEST_F(Clones, AGuestThatFallsSilentIsExit5) {
  const std::vector<std::string> arguments = {"--append", "ktstr.inject=silent"};
  keep("hello", arguments);
  const VmRun run = with_clone("always", arguments);
  EXPECT_EQ(run.exit_code, 5) << run.describe();
  EXPECT_EQ(run.reason_kind(), "guest-silent") << run.describe();
}

TEST_F(Clones, AKilledSchedulerIsExit4) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  const std::vector<std::string> arguments = {"--scheduler", scheduler, "--append",
                                              "ktstr.inject=kill-scheduler"};
  keep("attached", arguments);
  const VmRun run = with_clone("always", arguments);
  EXPECT_EQ(run.exit_code, 4) << run.describe();
  EXPECT_EQ(point_of(run), "attached");
}

TEST_F(Clones, ADumpOnRequestShowsTheClone) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  keep("attached", {"--scheduler", scheduler});
  const VmRun run =
      run_on("7.2", {"--scheduler", scheduler, "--clone", "always", "--duration", "3s"}, [this](pid_t pid) {
        if (wait_for_output(pid, "step '")) ::kill(pid, SIGUSR1);
      });
  EXPECT_EQ(run.exit_code, 0) << run.describe();
  ASSERT_EQ(list(run.result, "dumps").size(), 1U) << run.describe();
  EXPECT_GT(list(run.result, "dumps")[0]["tasks"].get<int>(), 10);
}

TEST_F(Clones, ADamagedSnapshotBootsAndSaysWhy) {
  clear();
  keep("hello", {});
  for (const auto& entry : fs::directory_iterator(cache_->snapshots())) {
    const fs::path state = entry.path() / "state";
    if (!fs::exists(state)) continue;
    ASSERT_EQ(::chmod(state.c_str(), 0600), 0);
    ASSERT_EQ(::truncate(state.c_str(), static_cast<off_t>(fs::file_size(state) / 2)), 0);
  }
  const VmRun run = with_clone("auto", {});
  expect_pass(run, "");
  ASSERT_EQ(list(run.result["host"], "warnings").size(), 1U) << run.describe();
  EXPECT_NE(run.err.find("starting"), std::string::npos);
  expect_pass(with_clone("auto", {}), "hello");
}

TEST_F(Clones, ACacheThatCannotBeWrittenBootsAndSaysSo) {
  clear();
  std::ofstream(cache_->snapshots()) << "a file";
  const VmRun run = with_clone("auto", {});
  EXPECT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_EQ(point_of(run), "");
  EXPECT_FALSE(list(run.result["host"], "warnings").empty()) << run.describe();
  clear();
}

TEST_F(Clones, SeveralRunsHaveAGuestAndAFolderEach) {
  keep("hello", {});
  const auto folders = [this] {
    std::size_t count = 0;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder() / "out", error))
      count += fs::exists(entry.path() / "result.json") && !entry.is_symlink() ? 1U : 0U;
    return count;
  };
  const std::size_t before = folders();
  const VmRun run = run_on("7.2", {"--repeat", "3", "--jobs", "2", "--duration", "1s", "--clone", "always"});
  EXPECT_EQ(run.exit_code, 0) << run.describe();
  EXPECT_NE(run.last_line.find(" runs=3 passed=3 result="), std::string::npos) << run.last_line;
  EXPECT_EQ(folders(), before + 3);
  EXPECT_EQ(run_on("7.2", {"--repeat", "2", "--jobs", "0"}).exit_code, 2);
}

TEST_F(Clones, SigintEndsAllOfASeries) {
  keep("hello", {});
  const VmRun run = run_on("7.2", {"--repeat", "3", "--duration", "600s"}, [this](pid_t pid) {
    // Its own words are only about runs that have ended: look for the first run's folder.
    while (!fs::exists(folder() / "out" / "latest" / "pid") && ::kill(pid, 0) == 0) ::usleep(20'000);
    ::kill(pid, SIGINT);
  });
  EXPECT_EQ(run.exit_code, 21) << run.describe();
  EXPECT_NE(run.out.find("not started"), std::string::npos) << run.out;
}

// Twenty clones of a guest with a real scheduler, each under load for two seconds; a hundred in the full
// tests.
TEST_F(Clones, ClonesWithLavdAreWell) {
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  const std::vector<std::string> arguments = {"--scheduler", scheduler, "--duration", "2s"};
  keep("attached", arguments);
  const int clones = environment("KTSTR_TEST_FULL").empty() ? 20 : 100;
  for (int i = 0; i < clones && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    expect_pass(with_clone("always", arguments), "attached");
  }
}

}  // namespace
}  // namespace ktstr::vmtest
