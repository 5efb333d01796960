#include "common/scenario_check.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

namespace ktstr {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

v1::Scenario parse(const std::string& text) {
  v1::Scenario scenario;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &scenario)) << text;
  return scenario;
}

struct Case {
  const char* text;  // a whole scenario
  const char* path;
  const char* message;  // part of it
};

class ScenarioCheckTable : public ::testing::TestWithParam<Case> {};

TEST_P(ScenarioCheckTable, FindsTheProblem) {
  const Case& test = GetParam();
  const auto problems = check_scenario(parse(test.text), 4);
  ASSERT_FALSE(problems.empty()) << test.text;
  EXPECT_EQ(problems[0].path, test.path);
  EXPECT_THAT(problems[0].message, HasSubstr(test.message));
  EXPECT_EQ(problems.size(), 1U) << to_string(problems[1]);
}

#define GROUP "cgroups { name: 'a' works { workers: 1 spin {} } }"

INSTANTIATE_TEST_SUITE_P(
    All, ScenarioCheckTable,
    ::testing::Values(
        Case{"name: '\\377' steps {" GROUP "}", "name", "UTF-8"},
        Case{"name: 'a\\nb' steps {" GROUP "}", "name", "printable"},
        Case{"duration: '5' steps {" GROUP "}", "duration", ""},
        Case{"duration: '0s' steps {" GROUP "}", "duration", "too short"},
        Case{"duration: '100h' steps {" GROUP "}", "duration", "too long"},
        Case{"requirements { config: 'HZ' } steps {" GROUP "}", "requirements.config[0]", "kernel option"},
        Case{"steps {}", "", "no workers"}, Case{"", "", "no steps"},
        Case{"steps {" GROUP " hold { fixed: 'soon' } }", "steps[0].hold.fixed", ""},
        Case{"steps {" GROUP " hold { fixed: '' } }", "steps[0].hold.fixed", "empty"},
        Case{"steps {" GROUP " hold { fixed: '0s' } }", "steps[0].hold.fixed", "too short"},
        Case{"steps {" GROUP " hold { frac: nan } }", "steps[0].hold.frac", "nan"},
        Case{"steps {" GROUP " hold { frac: inf } }", "steps[0].hold.frac", "inf"},
        Case{"steps {" GROUP " hold { frac: 0 } }", "steps[0].hold.frac", "0"},
        Case{"steps {" GROUP " hold { frac: 1.01 } }", "steps[0].hold.frac", "1.01"},
        Case{"steps {" GROUP " hold { full: false } }", "steps[0].hold.full", ""},
        Case{"steps {" GROUP "} steps {}", "steps[1]", "no time"},
        Case{"steps {" GROUP GROUP "}", "steps[0].cgroups[1].name", "another cgroup"},
        Case{"backdrop {" GROUP "} steps {" GROUP "}", "steps[0].cgroups[0].name", "another cgroup"},
        Case{"steps { cgroups { works { workers: 1 spin {} } } }", "steps[0].cgroups[0]", "no name"},
        Case{"steps { cgroups { name: 'a/b' works { workers: 1 spin {} } } }", "steps[0].cgroups[0].name",
             "letters"},
        Case{"steps { cgroups { name: '..' works { workers: 1 spin {} } } }", "steps[0].cgroups[0].name",
             "'..'"},
        Case{"steps { cgroups { name: 'cpu.x' works { workers: 1 spin {} } } }", "steps[0].cgroups[0].name",
             "cpu.x"},
        Case{"steps { cgroups { name: 'a' cpuset: '4' works { workers: 1 spin {} } } }",
             "steps[0].cgroups[0].cpuset", ""},
        Case{"steps { cgroups { name: 'a' cpuset: ' ' works { workers: 1 spin {} } } }",
             "steps[0].cgroups[0].cpuset", "no CPU"},
        Case{"steps { cgroups { name: 'a' cpu_weight: 0 works { workers: 1 spin {} } } }",
             "steps[0].cgroups[0].cpu_weight", "0"},
        Case{"steps { cgroups { name: 'a' cpu_weight: 10001 works { workers: 1 spin {} } } }",
             "steps[0].cgroups[0].cpu_weight", "10001"},
        Case{"steps { cgroups { name: 'a' works { workers: 0 spin {} } } }",
             "steps[0].cgroups[0].works[0].workers", "zero"},
        Case{"steps { cgroups { name: 'a' works { workers: 1 } } }", "steps[0].cgroups[0].works[0]", "do?"},
        Case{"steps {" GROUP "cgroups { name: 'b' works { spin {} } } }", "steps[0].cgroups[1].works[0]",
             "how many"},
        Case{"steps {" GROUP "cgroups { name: 'b' works { workers: 1 workers_per_cpu: 1 spin {} } } }",
             "steps[0].cgroups[1].works[0]", "both"},
        Case{"steps {" GROUP "cgroups { name: 'b' works { workers_per_cpu: nan spin {} } } }",
             "steps[0].cgroups[1].works[0].workers_per_cpu", "nan"},
        Case{"steps {" GROUP "cgroups { name: 'b' works { workers: 4294967295 spin {} } } }",
             "steps[0].cgroups[1].works[0].workers", "too many"},
        Case{"steps { cgroups { name: 'a' works { workers: 4000 spin {} } works { workers: 200 spin {} } } }",
             "steps[0]", "4200 workers"},
        Case{"steps {" GROUP "cgroups { name: 'b' } }", "steps[0].cgroups[1]", "no workers"},
        Case{"steps { cgroups { name: 'a' works { workers: 1 nice: 20 spin {} } } }",
             "steps[0].cgroups[0].works[0].nice", "20"},
        Case{"steps { cgroups { name: 'a' cpuset: '0' works { workers: 1 affinity: '1' spin {} } } }",
             "steps[0].cgroups[0].works[0].affinity", "cpuset"},
        Case{"steps { cgroups { name: 'a' works { workers: 1 yield { burst: '-1s' } } } }",
             "steps[0].cgroups[0].works[0].yield.burst", ""},
        Case{"steps { cgroups { name: 'a' works { workers: 1 sleep_and_run { sleep: '0s' } } } }",
             "steps[0].cgroups[0].works[0].sleep_and_run.sleep", "too short"},
        Case{"steps {" GROUP "} checks { max_gap: '2' }", "checks.max_gap", ""},
        Case{"steps {" GROUP "} checks { max_p99_wake_latency: '2ms' }", "checks.max_p99_wake_latency",
             "nothing"},
        Case{"steps {" GROUP "} checks { min_wake_samples: 0 }", "checks.min_wake_samples", "zero"},
        Case{"steps {" GROUP "} checks { isolation: true }", "checks.isolation", "no cgroup"},
        Case{"steps {" GROUP "} checks { max_spread_pct: nan }", "checks.max_spread_pct", "nan"},
        Case{"steps {" GROUP "} checks { max_spread_pct: 101 }", "checks.max_spread_pct", "101"}));

TEST(ScenarioCheck, AcceptsWhatIsRight) {
  const auto problems = check_scenario(parse(R"(
    name: "größe" duration: "3s"
    backdrop { cgroups { name: "back" works { workers: 1 yield { burst: "0s" } } } }
    steps { cgroups { name: "a" cpuset: "0-3" cpu_weight: 1
                      works { workers: 1 affinity: "1" nice: -20 sleep_and_run {} } } hold { frac: 0.5 } }
    steps { hold { full: true } }
    checks { not_starved: true max_gap: "1s" max_p99_wake_latency: "1ms" isolation: true }
  )"),
                                       4);
  EXPECT_TRUE(problems.empty()) << to_string(problems[0]);
}

TEST(ScenarioCheck, HostileSizesAreBounded) {
  v1::Scenario scenario;
  for (int i = 0; i < kMaxSteps; ++i) {
    for (int k = 0; k < 3; ++k) scenario.add_steps();
  }
  EXPECT_EQ(check_scenario(scenario, 4).size(), 1U);
  scenario.clear_steps();
  v1::Step& step = *scenario.add_steps();
  for (int i = 0; i < kMaxCgroups; ++i) step.add_cgroups();
  EXPECT_EQ(check_scenario(scenario, 4).size(), 100U);
}

TEST(ScenarioCheck, CountsFollowTheCgroupsCpus) {
  const v1::Scenario scenario = parse(
      "steps { cgroups { name: 'a' cpuset: '1-3' works { workers_per_cpu: 0.5 spin {} } "
      "works { workers: 7 spin {} } works { workers_per_cpu: 1e300 spin {} } } }");
  const v1::CgroupDef& cgroup = scenario.steps(0).cgroups(0);
  const std::size_t cpus = cgroup_cpus(cgroup, 4).size();
  EXPECT_EQ(cpus, 3U);
  EXPECT_EQ(worker_count(cgroup.works(0), cpus), 2U);
  EXPECT_EQ(worker_count(cgroup.works(1), cpus), 7U);
  EXPECT_EQ(worker_count(cgroup.works(2), cpus), kMaxWorkers + 1);
}

TEST(ScenarioCheck, Holds) {
  const milliseconds whole(1000);
  EXPECT_EQ(hold_length(parse("steps { hold { frac: 0.25 } }").steps(0).hold(), whole), milliseconds(250));
  EXPECT_EQ(hold_length(parse("steps { hold { fixed: '2s' } }").steps(0).hold(), whole), whole);
  EXPECT_EQ(hold_length(parse("steps {}").steps(0).hold(), whole), whole);
  EXPECT_EQ(hold_length(parse("steps { hold { frac: nan } }").steps(0).hold(), whole).count(), 0);
}

TEST(ScenarioCheck, TopologySaturates) {
  v1::Topology topology;
  EXPECT_EQ(topology_cpus(topology), 1U);
  topology.set_llcs(2);
  topology.set_cores_per_llc(3);
  topology.set_threads_per_core(2);
  EXPECT_EQ(topology_cpus(topology), 12U);
  topology.set_llcs(~0U);
  topology.set_cores_per_llc(~0U);
  EXPECT_EQ(topology_cpus(topology), CpuSet::kMaxCpus);
}

}  // namespace
}  // namespace ktstr
