// The same inputs and seed give the same run, bit by bit, whatever the host is doing.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <thread>

#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Keeps `count` host CPUs' worth of work going.
class Hogs {
 public:
  explicit Hogs(int count) {
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
        }
      });
    }
  }

 private:
  std::vector<std::jthread> threads_;
};

void expect_identical(const VmRun& a, const VmRun& b) {
  ASSERT_TRUE(a.result.is_object()) << a.describe();
  ASSERT_TRUE(b.result.is_object()) << b.describe();
  EXPECT_EQ(a.exit_code, b.exit_code);
  EXPECT_EQ(a.result["guest"].dump(), b.result["guest"].dump());
  EXPECT_EQ(a.result.value("reasons", nlohmann::json()), b.result.value("reasons", nlohmann::json()));
  EXPECT_EQ(a.result["determinism"]["frames_xxh3"], b.result["determinism"]["frames_xxh3"]);
  EXPECT_GT(a.result["determinism"]["frames"], 5);
  EXPECT_EQ(a.result["determinism"]["identical_until"], "");
  EXPECT_EQ(bytes_of(a.folder / "frames.bin"), bytes_of(b.folder / "frames.bin"));
  EXPECT_EQ(bytes_of(a.folder / "console.log"), bytes_of(b.folder / "console.log"));
}

class Deterministic : public VmTest {
 protected:
  void SetUp() override {
    VmTest::SetUp();
    if (kernel("7.2").empty()) GTEST_SKIP() << "not available: kernel 7.2";
  }
  // Once on a quiet host, once beside four hogs, with a reader that stands still for a while.
  void expect_the_load_to_change_nothing(const std::string& series,
                                         const std::vector<std::string>& arguments) {
    const VmRun quiet = run_seeded(series, arguments);
    ASSERT_EQ(quiet.exit_code, 0) << quiet.describe();
    const Hogs hogs(4);
    const VmRun loaded = run_seeded(series, arguments, [this](pid_t pid) {
      // How long does not matter, only that the guest goes on writing meanwhile.
      ASSERT_TRUE(wait_for_output(pid, "guest is up"));
      ::kill(pid, SIGSTOP);
      std::this_thread::sleep_for(std::chrono::seconds(1));
      ::kill(pid, SIGCONT);
    });
    expect_identical(quiet, loaded);
  }
};

TEST_F(Deterministic, EevdfOnOneCpu) {
  expect_the_load_to_change_nothing("7.2", {"--cpus", "1", "--duration", "2s"});
}

TEST_F(Deterministic, SimpleOnTwoCpus) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_the_load_to_change_nothing("7.2", {"--scheduler", scheduler});
}

TEST_F(Deterministic, SimpleOnFourCpusOf618) {
  KTSTR_NEEDS(kernel_618, kernel("6.18"));
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  expect_the_load_to_change_nothing("6.18", {"--scheduler", scheduler, "--cpus", "4", "--duration", "2s"});
}

TEST_F(Deterministic, BpflandOnTwoCpus) {
  KTSTR_NEEDS(scheduler, real_scheduler("scx_bpfland"));
  expect_the_load_to_change_nothing("7.2", {"--scheduler", scheduler, "--duration", "2s"});
}

TEST_F(Deterministic, LavdOnFourCpus) {
  if (environment("KTSTR_TEST_FULL").empty()) GTEST_SKIP() << "only in a full test (scripts/test --full)";
  KTSTR_NEEDS(scheduler, real_scheduler("scx_lavd"));
  expect_the_load_to_change_nothing("7.2", {"--scheduler", scheduler, "--cpus", "4", "--duration", "2s"});
}

TEST_F(Deterministic, TenSeedsGiveTenCourses) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  std::set<std::string> courses;
  for (int seed = 1; seed <= 10; ++seed) {
    const VmRun run = run_on(
        "7.2", {"--scheduler", scheduler, "--duration", "200ms", "--deterministic=" + std::to_string(seed)});
    ASSERT_EQ(run.exit_code, 0) << run.describe();
    courses.insert(run.result["determinism"]["frames_xxh3"].get<std::string>());
  }
  EXPECT_EQ(courses.size(), 10U);
}

TEST_F(Deterministic, AStallHitsTheSameTaskAtTheSameNanosecond) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_qmap"));
  // With a freeze the run is a function of its inputs up to there: Dumps.AFreezeComesAtTheSameInstant.
  const std::vector<std::string> arguments{"--scheduler", scheduler, "--scheduler-args", "-t 50 -T 50",
                                           "--duration",  "30s",     "--on-freeze",      "off"};
  const VmRun first = run_seeded("7.2", arguments);
  ASSERT_EQ(first.exit_code, 4) << first.describe();
  EXPECT_NE(first.reason_text().find("stall"), std::string::npos) << first.describe();
  const std::string dump = bytes_of(first.folder / "scheduler.log");
  EXPECT_NE(dump.find("runnable task stall"), std::string::npos) << dump;
  const Hogs hogs(3);
  const VmRun second = run_seeded("7.2", arguments);
  expect_identical(first, second);
  EXPECT_EQ(dump, bytes_of(second.folder / "scheduler.log"));
}

TEST_F(Deterministic, ReplaySaysIdenticalOrWhereItDiffers) {
  const VmRun first = run_seeded("7.2", {"--duration", "200ms"});
  ASSERT_EQ(first.exit_code, 0) << first.describe();
  const VmRun again = run({"replay", first.folder.string()});
  EXPECT_EQ(again.exit_code, 0) << again.describe();
  EXPECT_TRUE(again.out.starts_with("identical: ")) << again.out;

  // What was recorded is made to differ in its last byte: the frame that says Bye.
  std::string frames = bytes_of(first.folder / "frames.bin");
  frames.back() = static_cast<char>(frames.back() ^ 1);
  std::ofstream(first.folder / "frames.bin", std::ios::binary) << frames;
  const VmRun other = run({"replay", first.folder.string()});
  EXPECT_EQ(other.exit_code, 1) << other.describe();
  EXPECT_NE(other.out.find("bye at "), std::string::npos) << other.out;
  EXPECT_NE(other.out.find("no input has changed"), std::string::npos) << other.out;
}

TEST_F(Deterministic, ReplayNamesInputsThatAreGoneOrHaveChanged) {
  const fs::path kept = folder() / "kept";
  const fs::path lost = folder() / "lost";
  std::ofstream(kept) << "one";
  std::ofstream(lost) << "two";
  const VmRun first =
      run_seeded("7.2", {"--duration", "200ms", "--include", kept.string(), "--include", lost.string()});
  ASSERT_EQ(first.exit_code, 0) << first.describe();
  std::ofstream(kept) << "another";
  fs::remove(lost);
  const VmRun replay = run({"replay", first.folder.string()});
  EXPECT_EQ(replay.exit_code, 20) << replay.describe();
  EXPECT_NE(replay.err.find(kept.string() + "' has changed"), std::string::npos) << replay.err;
  EXPECT_NE(replay.err.find(lost.string()), std::string::npos) << replay.err;
}

TEST_F(Deterministic, AnInterruptedRunSaysHowFarItCanBeRepeated) {
  const VmRun run = run_seeded("7.2", {"--duration", "3600s"}, [this](pid_t pid) {
    EXPECT_TRUE(wait_for_output(pid, "step '"));
    ::kill(pid, SIGINT);
  });
  EXPECT_EQ(run.exit_code, 21) << run.describe();
  EXPECT_NE(run.result["determinism"]["identical_until"].get<std::string>().find("SIGINT"), std::string::npos)
      << run.describe();
}

// A program that loses an update in some interleavings of its two threads.
class PlantedRace : public Deterministic {
 protected:
  std::vector<std::string> arguments() const {
    return {
        "--scheduler", environment("KTSTR_PLANTED_RACE"), "--scheduler-args", "20000 400 /include/scx_simple",
        "--include",   example_scheduler("scx_simple"),   "--duration",       "1s"};
  }
};

TEST_F(PlantedRace, FailsInSomeSeedsAndThenEveryTime) {
  KTSTR_NEEDS(scheduler, example_scheduler("scx_simple"));
  KTSTR_NEEDS(program, environment("KTSTR_PLANTED_RACE"));
  std::optional<VmRun> failure;
  int passed = 0;
  for (int seed = 1; seed <= 30 && !(failure && passed > 0); ++seed) {
    auto with_seed = arguments();
    with_seed.push_back("--deterministic=" + std::to_string(seed));
    VmRun run = run_on("7.2", with_seed);
    if (run.exit_code == 0) {
      ++passed;
    } else if (!failure) {
      EXPECT_EQ(run.exit_code, 4) << run.describe();
      failure = std::move(run);
    }
  }
  EXPECT_GT(passed, 0);
  ASSERT_TRUE(failure);
  const int replays = environment("KTSTR_TEST_FULL").empty() ? 3 : 20;
  for (int i = 0; i < replays; ++i) {
    const VmRun again = run({"replay", failure->folder.string()});
    EXPECT_EQ(again.exit_code, 0) << again.describe();
    EXPECT_NE(again.out.find("verdict=scheduler-died"), std::string::npos) << again.out;
  }
}

}  // namespace
}  // namespace ktstr::vmtest
