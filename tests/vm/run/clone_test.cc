// Runs whose guest goes on from a snapshot: the same things happen in them as in a guest that has booted.
#include <unistd.h>

#include <ctime>
#include <map>
#include <set>

#include "tests/vm/run/clone_vm_test.h"

namespace ktstr::vmtest {
namespace {

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
  KTSTR_NEEDS(reader, environment("KTSTR_LOOK_AROUND"));
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
      } else {
        seen[key].insert(value);
      }
    }
  }
  for (const char* key : {"getrandom", "at_random", "uuid", "stack"})
    EXPECT_EQ(seen[key].size(), kClones) << key;
}

// Processes, mounts, cgroups, and what PID 1 has open.
TEST_F(Clones, AClonesPid1FindsWhatThatOfABootedGuestFinds) {
  KTSTR_NEEDS(looker, environment("KTSTR_LOOK_AROUND"));
  clear();
  const auto inventory = [&](const char* mode) {
    const VmRun run = with_clone(mode, {"--scheduler", looker});
    EXPECT_EQ(run.exit_code, 12) << run.describe();
    std::multiset<std::string> lines;
    std::istringstream log(slurp(run.folder / "scheduler.log"));
    for (std::string line; std::getline(log, line);) {
      for (const char* key : {"process ", "mount ", "cgroup ", "descriptor "})
        if (line.starts_with(key)) lines.insert(line);
    }
    return lines;
  };
  const auto booted = inventory("auto");
  EXPECT_GT(booted.count("process init"), 0U);
  EXPECT_EQ(inventory("always"), booted);
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
      run_on("7.2", {"--scheduler", scheduler, "--clone", "always", "--scenario", load()}, [this](pid_t pid) {
        if (wait_for_output(pid, "step '")) ::kill(pid, SIGUSR1);
      });
  EXPECT_EQ(run.exit_code, 0) << run.describe();
  ASSERT_EQ(list(run.result, "dumps").size(), 1U) << run.describe();
  EXPECT_GT(list(run.result, "dumps")[0]["tasks"].get<int>(), 10);
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
  const VmRun run =
      run_on("7.2", {"--repeat", "3", "--jobs", "2", "--scenario", load(), "--clone", "always"});
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
  const std::vector<std::string> arguments = {"--scheduler", scheduler};
  keep("attached", arguments);
  const auto base = rams();
  ASSERT_FALSE(base.empty());
  const int clones = environment("KTSTR_TEST_FULL").empty() ? 20 : 100;
  for (int i = 0; i < clones && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    expect_pass(with_clone("always", arguments), "attached");
  }
  EXPECT_EQ(rams(), base);
}

// The same where the CPU is a real one; there is no scx_lavd in the guest of scripts/nested-kvm.
TEST_F(Clones, TwentyOnKvmAreWell) {
  if (!on_kvm()) GTEST_SKIP() << "not available: the kvm machine";
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  const std::vector<std::string> arguments = {"--scheduler", scheduler};
  keep("attached", arguments);
  for (int i = 0; i < 20 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    expect_pass(with_clone("always", arguments), "attached");
  }
}

}  // namespace
}  // namespace ktstr::vmtest
