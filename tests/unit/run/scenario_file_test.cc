#include "host/run/scenario_file.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

constexpr std::uint32_t kCpus = 4;

Expected<LoadedScenario> parse(const std::string& text) {
  return parse_scenario(SourceText("s.textproto", text), kCpus, "");
}

// The error of a text that must not be accepted.
Error error_of(const std::string& text) {
  auto parsed = parse(text);
  if (parsed) {
    ADD_FAILURE() << "accepted: " << text;
    return {ErrorCode::kHost, "accepted"};
  }
  EXPECT_EQ(parsed.error().code(), ErrorCode::kUsage);
  return parsed.error();
}

std::string step(const std::string& body) {
  return "steps {\n  cgroups {\n    name: \"a\"\n" + body + "  }\n}\n";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ScenarioFile, EveryScenarioOfTheCatalogIsValid) {
  ASSERT_GE(scenario_catalog().size(), 4U);
  for (const CatalogEntry& entry : scenario_catalog()) {
    const auto loaded = load_scenario(std::string(entry.name), kCpus, "");
    ASSERT_TRUE(loaded) << loaded.error().detail();
    EXPECT_FALSE(loaded->scenario.description().empty()) << entry.name;
    EXPECT_EQ(loaded->scenario.name(), entry.name);
  }
}

TEST(ScenarioFile, DefaultsAreFilledIn) {
  const auto loaded = parse(step("works { workers: 1 spin {} }\n"));
  ASSERT_TRUE(loaded) << loaded.error().detail();
  EXPECT_EQ(loaded->scenario.name(), "s");
  EXPECT_EQ(loaded->scenario.duration(), "5s");
}

TEST(ScenarioFile, DurationOverrideReplacesTheFiles) {
  const auto loaded = parse_scenario(
      SourceText("s", "duration: \"3s\"\n" + step("works { workers: 1 spin {} }\n")), kCpus, "9s");
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->scenario.duration(), "9s");
}

TEST(ScenarioFile, AnUnknownWorkTypeIsNamedAtItsPlaceWithAHint) {
  const Error error = error_of(step("    works { workers: 1 spn {} }\n"));
  EXPECT_TRUE(error.message().starts_with("s.textproto:4:24: ")) << error.message();
  EXPECT_TRUE(has(error.detail(), "did you mean 'spin'?")) << error.detail();
}

TEST(ScenarioFile, TabsCountOneColumn) {
  EXPECT_TRUE(error_of("\thodl: \"1s\"\n").message().starts_with("s.textproto:1:2: "));
}

TEST(ScenarioFile, ADuplicateFieldIsNamedAtItsSecondPlace) {
  const Error error = error_of("duration: \"1s\"\nduration: \"2s\"\n");
  EXPECT_TRUE(error.message().starts_with("s.textproto:2:1: ")) << error.message();
}

TEST(ScenarioFile, SyntaxErrorsHaveAPlace) {
  EXPECT_TRUE(error_of("steps {\n  name: oops\n}\n").message().starts_with("s.textproto:2:9: "));
}

TEST(ScenarioFile, MeaningIsCheckedAndPlaced) {
  EXPECT_TRUE(has(error_of(step("    works { workers: 0 spin {} }\n")).message(), "s.textproto:4:13"))
      << "zero workers";
  EXPECT_TRUE(has(error_of(step("    cpuset: \"0-9\"\n    works { workers: 1 spin {} }\n")).message(),
                  "s.textproto:4:5"))
      << "cpuset";
  EXPECT_EQ(
      error_of("steps { hold { frac: nan } cgroups { name: \"a\" works { workers: 1 spin {} } } }").code(),
      ErrorCode::kUsage);
  EXPECT_EQ(error_of("").code(), ErrorCode::kUsage) << "no steps";
}

TEST(ScenarioFile, DeepNestingIsAnErrorNotACrash) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "steps{cgroups{";
  EXPECT_EQ(error_of(text).code(), ErrorCode::kUsage);
}

TEST(ScenarioFile, InvalidUtf8IsRefused) {
  EXPECT_TRUE(has(error_of("duration: \"1s\"\nname: \"\xff\"\n").message(), "s.textproto:2:1"));
}

TEST(ScenarioFile, AnUnknownNameIsComparedWithTheCatalog) {
  const auto loaded = load_scenario("stedy", kCpus, "");
  ASSERT_FALSE(loaded);
  EXPECT_TRUE(has(loaded.error().message(), "did you mean 'steady'?")) << loaded.error().message();
}

TEST(ScenarioFile, AMissingFileIsUsage) {
  const auto loaded = load_scenario("/nonexistent/x.textproto", kCpus, "");
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), ErrorCode::kUsage);
}

TEST(SourceText, ExcerptPointsAtTheColumn) {
  EXPECT_EQ(SourceText("f", "ab\n\tcd e\n").excerpt({2, 5}), "  \tcd e\n  \t   ^");
}

TEST(SourceText, FindsWholeWordsOnly) {
  const SourceText text("f", "spin_x spin\nxspin {");
  const SourcePosition found = text.find_word_before("spin", {2, 7});
  EXPECT_EQ(found.line, 1);
  EXPECT_EQ(found.column, 8);
}

}  // namespace
}  // namespace ktstr
