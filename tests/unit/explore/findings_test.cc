#include "host/explore/findings.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

SeedRecord failure(std::uint64_t seed, const std::string& signature, const std::string& folder = "") {
  return {.seed = seed, .exit_code = 1, .verdict = "fail", .signature = signature, .folder = folder};
}

TEST(Findings, CountsAndGroups) {
  Findings findings;
  EXPECT_FALSE(findings.add({.seed = 1, .verdict = "pass", .signature = "", .folder = ""}));
  EXPECT_TRUE(findings.add(failure(2, "rare")));
  EXPECT_TRUE(findings.add(failure(3, "often")));
  EXPECT_FALSE(findings.add(failure(4, "often")));
  EXPECT_EQ(findings.seeds(), 4U);
  EXPECT_EQ(findings.failures(), 3U);
  const auto groups = findings.groups();
  ASSERT_EQ(groups.size(), 2U);
  EXPECT_EQ(groups[0]->signature, "often");
  EXPECT_EQ(groups[0]->seeds, (std::vector<std::uint64_t>{3, 4}));
  EXPECT_EQ(groups[1]->count, 1U);
}

TEST(Findings, ASeedCountsOnce) {
  Findings findings;
  EXPECT_TRUE(findings.add(failure(2, "a")));
  EXPECT_FALSE(findings.add(failure(2, "b")));
  EXPECT_EQ(findings.seeds(), 1U);
  EXPECT_EQ(findings.group_count(), 1U);
}

TEST(Findings, EquallyFrequentGroupsStayInTheOrderTheyWereFound) {
  Findings findings;
  findings.add(failure(1, "z"));
  findings.add(failure(2, "a"));
  EXPECT_EQ(findings.groups()[0]->signature, "z");
}

TEST(Findings, KeepsTheFirstThreeFoldersOfAGroup) {
  Findings findings;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    EXPECT_EQ(findings.wants_folder("a"), seed <= 3);
    findings.add(failure(seed, "a", findings.wants_folder("a") ? "runs/x" : ""));
  }
  EXPECT_EQ(findings.groups()[0]->kept.size(), 3U);
  EXPECT_TRUE(findings.wants_folder("b"));
}

TEST(Findings, RemembersABoundedNumberOfSeeds) {
  Findings findings;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) findings.add(failure(seed, "a"));
  EXPECT_EQ(findings.groups()[0]->count, 1000U);
  EXPECT_EQ(findings.groups()[0]->seeds.size(), Findings::kSeedsPerGroup);
}

}  // namespace
}  // namespace ktstr
