#include "host/cli/run_options.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

RunRequest parse(std::vector<std::string> words) {
  CLI::App app("test", "ktstr-vm");
  app.fallthrough();
  app.add_subcommand("run");
  RunRequest request;
  add_run_options(app, request);
  words.insert(words.begin(), {"ktstr-vm", "run"});
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  app.parse(static_cast<int>(argv.size()), argv.data());
  return request;
}

void expect_equal(const RunRequest& a, const RunRequest& b) {
  EXPECT_EQ(a.kernel, b.kernel);
  EXPECT_EQ(a.scheduler, b.scheduler);
  EXPECT_EQ(a.scheduler_args, b.scheduler_args);
  EXPECT_EQ(a.scenario, b.scenario);
  EXPECT_EQ(a.more_scenarios, b.more_scenarios);
  EXPECT_EQ(a.repeat, b.repeat);
  EXPECT_EQ(a.jobs, b.jobs);
  EXPECT_EQ(a.clone, b.clone);
  EXPECT_EQ(a.cpus, b.cpus);
  EXPECT_EQ(a.topology, b.topology);
  EXPECT_EQ(a.cpu_flags, b.cpu_flags);
  EXPECT_EQ(a.memory, b.memory);
  EXPECT_EQ(a.duration, b.duration);
  EXPECT_EQ(a.out, b.out);
  EXPECT_EQ(a.accel, b.accel);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.append, b.append);
  EXPECT_EQ(a.kaslr, b.kaslr);
  EXPECT_EQ(a.includes, b.includes);
  EXPECT_EQ(a.boot_timeout, b.boot_timeout);
  EXPECT_EQ(a.bisect, b.bisect);
  EXPECT_EQ(a.bisect_boot, b.bisect_boot);
  EXPECT_EQ(a.retry, b.retry);
  EXPECT_EQ(a.verbose, b.verbose);
}

void expect_round_trip(const RunRequest& request) {
  const auto words = run_arguments(request);
  SCOPED_TRACE(testing::PrintToString(words));
  expect_equal(parse(words), request);
}

TEST(RunArguments, DefaultsNeedNoWords) {
  EXPECT_TRUE(run_arguments(RunRequest{}).empty());
  expect_round_trip(RunRequest{});
}

TEST(RunArguments, EveryOptionSurvives) {
  RunRequest request;
  request.kernel = "/boot/bzImage";
  request.scheduler = "scx_lavd";
  request.scheduler_args = "--slice-us 500 -v";
  request.scenario = "cpuset_isolation";
  request.topology = "numa=1,llcs=2,cores=2,threads=1";
  request.memory = "1G";
  request.duration = "1.5s";
  request.out = "/tmp/results";
  request.accel = AccelChoice::kTcg;
  request.seed = "17";
  request.append = {"loglevel=7", "quiet=", "a b"};
  request.kaslr = true;
  request.includes = {"a.txt:/b", "c"};
  request.boot_timeout = "90s";
  request.bisect = true;
  request.bisect_boot = true;
  request.retry = false;
  request.verbose = 2;
  expect_round_trip(request);
}

TEST(RunArguments, CpusAndKvm) {
  RunRequest request;
  request.kernel = "k";
  request.cpus = 4;
  request.accel = AccelChoice::kKvm;
  request.seed = "18446744073709551615";
  request.pages = RamPages::kHuge;
  request.pin_vcpus = "4-7";
  request.vcpu_fifo = 10;
  expect_round_trip(request);
}

TEST(RunArguments, ValuesThatLookLikeSomethingElse) {
  RunRequest request;
  request.kernel = "--kernel";
  request.scheduler = "a b'c\"d";
  request.scheduler_args = "-v";
  request.scenario = "=x=y";
  request.out = "run";
  request.append = {"--append", "-x", "run"};
  request.includes = {"-", "a,b"};
  expect_round_trip(request);
}

TEST(RunArguments, Series) {
  RunRequest request;
  request.kernel = "k";
  request.more_scenarios = {"cpuset_isolation", "steady"};
  request.repeat = 20;
  request.jobs = 3;
  request.clone = RunRequest::Clone::kAlways;
  expect_round_trip(request);
  request.more_scenarios.clear();
  request.clone = RunRequest::Clone::kNever;
  expect_round_trip(request);
}

TEST(RunArguments, NoJobsAreAMistake) {
  EXPECT_THROW(parse({"--kernel=k", "--jobs=0"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--kernel=k", "--repeat=0"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--kernel=k", "--clone=perhaps"}), CLI::ValidationError);
}

TEST(RunArguments, AWordThatIsNoneIsNamedWithThoseThatAre) {
  for (const char* wrong : {"perhaps", "0", ""}) {
    try {
      parse({"--kernel=k", "--clone", wrong});
      ADD_FAILURE() << "'" << wrong << "' is taken";
    } catch (const CLI::ValidationError& error) {
      EXPECT_EQ(std::string(error.what()),
                "--clone: '" + std::string(wrong) + "' is none of auto|always|never");
    }
  }
  EXPECT_EQ(parse({"--kernel=k", "--clone", "Never"}).clone, RunRequest::Clone::kNever);
  EXPECT_EQ(parse({"--kernel=k", "--traps=port"}).traps, TrapKind::kPort);
  EXPECT_FALSE(parse({"--kernel=k", "--traps=auto"}).traps);
}

TEST(RunArguments, SmallSeeds) {
  for (const char* seed : {"0", "1", "2"}) {
    RunRequest request;
    request.kernel = "k";
    request.seed = seed;
    expect_round_trip(request);
  }
}

}  // namespace
}  // namespace ktstr
