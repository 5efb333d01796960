// Scenarios as they come over the wire to the guest: any message, any number of CPUs. The check must end with
// a bounded list of problems, and the numbers that follow from a scenario must be bounded whether it is
// acceptable or not.
#include "common/scenario_check.h"
#include "tests/fuzz/fuzz_input.h"

using ktstr::fuzz::check;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ktstr::fuzz::FuzzInput input(data, size);
  const auto cpus = static_cast<std::uint32_t>(input.number(1));
  ktstr::v1::Scenario scenario;
  if (!scenario.ParseFromArray(input.rest().data(), static_cast<int>(input.rest().size()))) return 0;

  const auto problems = ktstr::check_scenario(scenario, cpus);
  check(problems.size() <= 100, "at most 100 problems");
  for (const auto& problem : problems) check(!ktstr::to_string(problem).empty(), "a problem has words");
  const auto duration = ktstr::scenario_duration(scenario);
  check(duration.count() >= 0, "a duration is not negative");
  for (const auto& step : scenario.steps()) {
    check(ktstr::hold_length(step.hold(), duration) <= duration, "a hold ends with the scenario");
  }
  return 0;
}
