#include "host/explore/explorer.h"

#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <stdexcept>

#include <gtest/gtest.h>

#include "host/explore/explore_report.h"
#include "host/explore/seed_process.h"
#include "tests/unit/common/scratch_dir.h"

namespace ktstr {
namespace {

using Why = ExploreEnd::Why;

// Stands in for `ktstr-vm run`: takes the seed and the results folder from its arguments, notes the seed in
// $here/ran, and does what the test's own script says, which usually ends with `result VERDICT EXIT TEXT`.
constexpr const char* kFakeHead = R"(#!/bin/sh
here=$(dirname "$0")
for word in "$@"; do
  case "$word" in
    --deterministic=*) seed=${word#*=} ;;
    --out=*) out=${word#*=} ;;
  esac
done
echo "$seed" >> "$here/ran"
result() {
  run=20261121T034500Z-1a2b3c
  mkdir -p "$out/$run"
  ln -sfn "$run" "$out/latest"
  cat > "$out/$run/result.json" <<END
{"schema_version": 1, "verdict": "$1", "exit_code": $2, "partial": false,
 "reasons": [{"kind": "test", "text": "$3", "step": ""}],
 "guest": {"facts": {"hello_ns": 12, "slowness": 1.5, "new_field": [1]}, "steps": [{"end_ns": 1234567890123}]}}
END
  exit "$2"
}
)";

class ExplorerTest : public testing::Test {
 protected:
  // Writes the fake program. A program that is being written cannot be executed, so it is closed here, before
  // anything is forked.
  void program(const std::string& body) {
    options_.program = scratch_.file("fake", kFakeHead + body + "\n");
    std::filesystem::permissions(options_.program, std::filesystem::perms::owner_all);
  }
  Expected<ExploreState> new_state() const {
    return ExploreState::create(scratch_.path("out"), {.argv = {"ktstr-vm"},
                                                       .run_arguments = {"--kernel=a b"},
                                                       .out = "ktstr-out",
                                                       .working_directory = "/",
                                                       .first_seed = 1});
  }
  ExploreEnd explore_in(ExploreState& state) {
    StatusLine status(log_, false);
    return explore(state, options_, status);
  }
  // Explores in a new folder.
  ExploreEnd explore_new() {
    auto state = new_state();
    if (!state) throw std::runtime_error(state.error().to_string());
    state_.emplace(std::move(*state));
    return explore_in(*state_);
  }
  std::multiset<std::uint64_t> ran() const {
    std::ifstream file(scratch_.path("ran"));
    return {std::istream_iterator<std::uint64_t>(file), {}};
  }
  std::string log() const {
    if (std::fseek(log_, 0, SEEK_SET) != 0) return {};
    std::string text(65536, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), log_));
    return text;
  }
  bool has_folder(std::uint64_t seed) const { return std::filesystem::exists(state_->seed_folder(seed)); }

  ExplorerTest() : log_(std::tmpfile()) {}
  ~ExplorerTest() override { std::fclose(log_); }

  test::ScratchDir scratch_;
  std::FILE* log_;
  ExploreOptions options_;
  std::optional<ExploreState> state_;
};

TEST_F(ExplorerTest, SeedsThatPassLeaveNothing) {
  program("[ \"$1\" = run ] && [ \"$2\" = '--kernel=a b' ] || exit 2\nresult pass 0 ''");
  options_.seeds = 12;
  options_.jobs = 3;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kSeedsDone) << end.message;
  EXPECT_EQ(end.seeds, 12U);
  EXPECT_EQ(ran(), (std::multiset<std::uint64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_TRUE(std::filesystem::is_empty(state_->path() / "runs"));
  EXPECT_EQ(explore_exit_code(*state_, end), 0);
  EXPECT_NE(log().find("10 of 12 seeds, 0 failures, 0 distinct"), std::string::npos) << log();
}

TEST_F(ExplorerTest, FailuresAreGroupedAndTheFirstThreeOfAGroupKept) {
  program(
      "case $seed in 1|2|4|5|7) result fail 1 \"worker $seed starved for $seed ms\" ;;"
      " 6) result inconclusive 21 noisy ;; *) result pass 0 '' ;; esac");
  options_.seeds = 8;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kSeedsDone) << end.message;
  const auto groups = state_->findings().groups();
  ASSERT_EQ(groups.size(), 2U);
  EXPECT_EQ(groups[0]->signature, "fail test: worker N starved for N");
  EXPECT_EQ(groups[0]->count, 5U);
  EXPECT_EQ(groups[1]->signature, "inconclusive test: noisy");
  ASSERT_EQ(groups[0]->kept.size(), 3U);
  EXPECT_EQ(groups[0]->kept[2].folder, "runs/4/20261121T034500Z-1a2b3c");
  EXPECT_EQ(groups[0]->kept[2].guest_ns, 1234567890123U);
  EXPECT_TRUE(has_folder(4));
  EXPECT_FALSE(has_folder(5));
  EXPECT_FALSE(has_folder(3));
  EXPECT_EQ(explore_exit_code(*state_, end), 1);
}

TEST_F(ExplorerTest, RunsSeveralAtATime) {
  // Each of the two can only end when the other one runs.
  program("case $seed in 1) echo x > \"$here/pipe\" ;; *) read x < \"$here/pipe\" ;; esac; result pass 0 ''");
  ASSERT_EQ(::mkfifo(scratch_.path("pipe").c_str(), 0600), 0);
  options_.seeds = 2;
  options_.jobs = 2;
  EXPECT_EQ(explore_new().seeds, 2U);
}

TEST_F(ExplorerTest, NeverMoreThanItsJobs) {
  program(
      "mkdir \"$here/running.$seed\"; ls -d \"$here\"/running.* | wc -l >> \"$here/counts\";"
      " rmdir \"$here/running.$seed\"; result pass 0 ''");
  options_.seeds = 12;
  options_.jobs = 2;
  EXPECT_EQ(explore_new().seeds, 12U);
  std::ifstream counts(scratch_.path("counts"));
  for (unsigned count = 0; counts >> count;) EXPECT_LE(count, 2U);
}

TEST_F(ExplorerTest, UntilFailureEndsTheOthers) {
  program("case $seed in 1) result fail 1 bad ;; *) exec sleep 1000 ;; esac");
  options_.seeds = 100;
  options_.jobs = 2;
  options_.until_failure = true;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kFailure) << end.message;
  EXPECT_EQ(state_->findings().seeds(), 1U);
  EXPECT_FALSE(has_folder(2));
  EXPECT_EQ(explore_exit_code(*state_, end), 1);
}

TEST_F(ExplorerTest, WhenTheBudgetIsOverRunningSeedsFinish) {
  program("result pass 0 ''");
  options_.budget = std::chrono::nanoseconds(1);
  options_.jobs = 3;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kBudget);
  EXPECT_EQ(end.seeds, 3U);
  EXPECT_EQ(explore_exit_code(*state_, end), 0);
}

TEST_F(ExplorerTest, ASignalKeepsWhatWasFound) {
  program(
      "case $seed in 1) result fail 1 bad ;; 3) kill -TERM $PPID; exec sleep 1000 ;; esac; result pass 0 ''");
  options_.seeds = 100;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kSignal);
  EXPECT_EQ(end.message, "SIGTERM");
  EXPECT_EQ(state_->findings().seeds(), 2U);
  EXPECT_FALSE(has_folder(3));
  EXPECT_EQ(explore_exit_code(*state_, end), 1);
}

TEST_F(ExplorerTest, ASignalBeforeAnyFailureIsInconclusive) {
  program("kill -INT $PPID; trap 'result inconclusive 21 interrupted' TERM; while :; do sleep 0.01; done");
  options_.seeds = 100;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kSignal);
  EXPECT_EQ(state_->findings().seeds(), 0U);
  EXPECT_EQ(explore_exit_code(*state_, end), 21);
}

TEST_F(ExplorerTest, ResumingRunsOnlyWhatIsMissing) {
  program("case $seed in 2) result fail 1 bad ;; esac; result pass 0 ''");
  options_.seeds = 3;
  explore_new();
  const auto folder = state_->path();
  state_.reset();
  std::filesystem::create_directories(folder / "runs/5/left-over");
  auto resumed = ExploreState::resume(folder);
  ASSERT_TRUE(resumed) << resumed.error().to_string();
  options_.seeds = 6;
  const ExploreEnd end = explore_in(*resumed);
  EXPECT_EQ(end.seeds, 3U);
  EXPECT_EQ(resumed->findings().seeds(), 6U);
  EXPECT_EQ(resumed->findings().failures(), 1U);
  EXPECT_EQ(ran(), (std::multiset<std::uint64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_FALSE(std::filesystem::exists(folder / "runs/5"));
}

TEST_F(ExplorerTest, AnExplorationThatIsCompleteRunsNothing) {
  program("result pass 0 ''");
  options_.seeds = 2;
  explore_new();
  EXPECT_EQ(explore_in(*state_).seeds, 0U);
  EXPECT_EQ(ran().size(), 2U);
}

TEST_F(ExplorerTest, WrongUsageEndsItWithTheRunsOwnWords) {
  program("echo 'ktstr-vm: no such kernel' >&2; echo 'ktstr-vm: verdict=usage'; exit 2");
  options_.seeds = 100;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kTrouble);
  EXPECT_EQ(end.message, "the run of seed 1 ended with exit code 2:\nktstr-vm: no such kernel");
  EXPECT_EQ(explore_exit_code(*state_, end), 2);
  EXPECT_EQ(ran().size(), 1U);
}

TEST_F(ExplorerTest, HostTroubleLaterKeepsWhatWasFound) {
  program("case $seed in 2) exit 20 ;; esac; result fail 1 bad");
  options_.seeds = 100;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(explore_exit_code(*state_, end), 20);
  EXPECT_EQ(state_->findings().failures(), 1U);
}

TEST_F(ExplorerTest, ASchedulerThatCannotStartEndsItOnlyAtTheFirstSeed) {
  program("[ $seed = 1 ] && result pass 0 ''; result start_failed 12 'verifier said no'");
  options_.seeds = 3;
  EXPECT_EQ(explore_new().why, Why::kSeedsDone);
  EXPECT_EQ(state_->findings().groups()[0]->signature, "start-failed test: verifier said no");
  program("result start_failed 12 'verifier said no'");
  const ExploreEnd end = explore_new();
  EXPECT_EQ(end.why, Why::kTrouble);
  EXPECT_EQ(explore_exit_code(*state_, end), 12);
}

TEST_F(ExplorerTest, ARunThatCrashesIsHostTrouble) {
  program("kill -SEGV $$");
  options_.seeds = 3;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(explore_exit_code(*state_, end), 20);
  EXPECT_NE(end.message.find("killed by signal 11"), std::string::npos) << end.message;
}

TEST_F(ExplorerTest, AProgramThatIsMissingIsHostTrouble) {
  options_.program = scratch_.path("missing");
  options_.seeds = 3;
  const ExploreEnd end = explore_new();
  EXPECT_EQ(explore_exit_code(*state_, end), 20);
  EXPECT_NE(end.message.find("cannot execute"), std::string::npos) << end.message;
}

TEST_F(ExplorerTest, RunsWithoutAUsableResultAreFailuresToo) {
  program(
      "case $seed in 1) exit 5 ;; 2) mkdir -p \"$out/r\"; ln -s r \"$out/latest\"; echo '{' > "
      "\"$out/r/result.json\";"
      " exit 5 ;; 3) mkdir -p \"$out\"; ln -s ../../../.. \"$out/latest\"; exit 5 ;; esac");
  options_.seeds = 3;
  explore_new();
  EXPECT_EQ(state_->findings().failures(), 3U);
  for (const auto* group : state_->findings().groups()) {
    EXPECT_TRUE(group->signature.starts_with("timeout no-result: ")) << group->signature;
  }
}

TEST_F(ExplorerTest, MuchOutputBlocksNobody) {
  program("head -c 1000000 /dev/zero | tr '\\0' 'x'; echo; echo last; exit 2");
  options_.seeds = 1;
  const ExploreEnd end = explore_new();
  EXPECT_TRUE(end.message.ends_with("last"));
  EXPECT_LT(end.message.size(), 100'000U);
}

// The child of a process that dies gets SIGTERM.
TEST_F(ExplorerTest, ARunDoesNotOutliveUs) {
  const std::string script = scratch_.file("sleeper", "#!/bin/sh\necho $$ > \"$1\"\nexec sleep 1000\n");
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  const std::string fifo = scratch_.path("pid");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  const pid_t parent = ::fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    auto process = SeedProcess::spawn(script, {"sleeper", fifo});
    ::pause();
  }
  pid_t run = -1;
  std::ifstream(fifo) >> run;
  ASSERT_GT(run, 0);
  ASSERT_EQ(::kill(parent, SIGKILL), 0);
  int status = 0;
  EXPECT_EQ(::waitpid(parent, nullptr, 0), parent);
  EXPECT_EQ(::waitpid(run, &status, 0), run);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
}

}  // namespace
}  // namespace ktstr
