#include "host/cli/scenarios_command.h"

#include <sstream>

#include <gtest/gtest.h>

#include "host/run/scenario_file.h"

namespace ktstr {
namespace {

TEST(ScenariosCommand, ListsEachWithItsDescription) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(scenarios_command(""), 0);
  std::istringstream lines(::testing::internal::GetCapturedStdout());
  for (const CatalogEntry& entry : scenario_catalog()) {
    SCOPED_TRACE(entry.name);
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    const auto scenario = load_scenario(std::string(entry.name), 4, "");
    ASSERT_TRUE(scenario) << scenario.error().to_string();
    ASSERT_FALSE(scenario->scenario.description().empty());
    EXPECT_TRUE(line.starts_with(entry.name)) << line;
    EXPECT_TRUE(line.ends_with(" " + scenario->scenario.description())) << line;
  }
}

TEST(ScenariosCommand, PrintsOneAndRefusesAnUnknown) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(scenarios_command("steady"), 0);
  EXPECT_NE(::testing::internal::GetCapturedStdout().find("workers_per_cpu"), std::string::npos);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(scenarios_command("stedy"), 2);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("stedy"), std::string::npos);
}

}  // namespace
}  // namespace ktstr
