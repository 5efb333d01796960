#include "common/cpu_set.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/unit/common/prng.h"

namespace ktstr {
namespace {

// The set as text, or the error as "error: ...".
std::string parsed(std::string_view text, std::uint32_t limit = CpuSet::kMaxCpus) {
  const auto set = CpuSet::parse(text, limit);
  if (set) return set->to_string();
  EXPECT_EQ(set.error().code(), ErrorCode::kUsage);
  return "error: " + set.error().to_string();
}

bool refused(std::string_view text, std::uint32_t limit = CpuSet::kMaxCpus) {
  return parsed(text, limit).starts_with("error: ");
}

TEST(CpuSet, ParsesNumbersAndRanges) {
  EXPECT_EQ(parsed("0"), "0");
  EXPECT_EQ(parsed("0-3,8"), "0-3,8");
  EXPECT_EQ(parsed("8,0-3"), "0-3,8");
  EXPECT_EQ(parsed("5-5"), "5");
  EXPECT_EQ(parsed("8191"), "8191");
  EXPECT_EQ(parsed("007"), "7");
}

TEST(CpuSet, OverlapsAndNeighboursAreJoined) {
  EXPECT_EQ(parsed("0-3,2-5"), "0-5");
  EXPECT_EQ(parsed("0,1,2,3"), "0-3");
  EXPECT_EQ(parsed("1,1,1"), "1");
}

TEST(CpuSet, EmptyTextIsTheEmptySet) {
  EXPECT_EQ(parsed(""), "");
  EXPECT_EQ(parsed("\n"), "");
  EXPECT_EQ(parsed("  \n"), "");
  EXPECT_TRUE(CpuSet::parse("")->empty());
}

TEST(CpuSet, BlanksAroundElementsAndATrailingNewlineAreAllowed) {
  EXPECT_EQ(parsed("0-3,8\n"), "0-3,8");
  EXPECT_EQ(parsed(" 0-3 ,\t8 \n"), "0-3,8");
}

TEST(CpuSet, GroupsTakeTheFirstOfEach) {
  EXPECT_EQ(parsed("0-7:2/4"), "0-1,4-5");
  EXPECT_EQ(parsed("0-15:1/2"), "0,2,4,6,8,10,12,14");
  EXPECT_EQ(parsed("3-9:2/3"), "3-4,6-7,9");  // the last group is cut
  EXPECT_EQ(parsed("0-7:4/4"), "0-7");
  EXPECT_EQ(parsed("0-7:0/4"), "");
  EXPECT_EQ(parsed("0-7:3/4294967295"), "0-2");
  EXPECT_EQ(parsed("8191-8191:1/1"), "8191");
  EXPECT_EQ(parsed("3-7:1/4294967295"), "3");  // the next group would begin beyond 2^32
}

TEST(CpuSet, AllMeansUpToTheLimit) {
  EXPECT_EQ(parsed("all", 4), "0-3");
  EXPECT_EQ(parsed("all", 1), "0");
  EXPECT_EQ(parsed("all"), "0-8191");
  EXPECT_EQ(parsed("all:1/2", 4), "0,2");
  EXPECT_EQ(parsed("all", UINT32_MAX), "0-8191");
}

TEST(CpuSet, ErrorsNameTheElementAndTheLimit) {
  EXPECT_EQ(parsed("0,4-9", 8), "error: bad CPU list element '4-9': CPU numbers go from 0 to 7");
  EXPECT_EQ(parsed("1", 1), "error: bad CPU list element '1': only CPU 0 exists");
  EXPECT_EQ(parsed("3-1"), "error: bad CPU list element '3-1': the range is reversed");
  EXPECT_EQ(parsed("0-7:2/0"), "error: bad CPU list element '0-7:2/0': the group size is 0");
  EXPECT_EQ(parsed("0-7:5/4"),
            "error: bad CPU list element '0-7:5/4': more CPUs are used than the group has");
  EXPECT_NE(parsed("0,,1").find("''"), std::string::npos);
  EXPECT_NE(parsed("0", 0).find("there are no CPUs"), std::string::npos);
}

TEST(CpuSet, RefusesRubbish) {
  for (const std::string_view text :
       {"a",         "-",     "-1",   "1-",    "1--2", "1-2-3", "+1",       "0x1",     "1.5",
        "1 2",       "0- 3",  ",",    "0,",    ",0",   "0-7:",  "0-7:2",    "0-7:2/",  "0-7:/4",
        "0-7:2/4/2", "5:1/2", "allx", "all-3", "All",  "0;1",   "\xff\xfe", "0-7 :2/4"}) {
    EXPECT_TRUE(refused(text)) << text;
  }
  EXPECT_TRUE(refused(std::string_view("0\0001", 3)));
}

TEST(CpuSet, RefusesNumbersTheLimitOrTheTypeCannotHold) {
  EXPECT_TRUE(refused("8192"));
  EXPECT_TRUE(refused("0-8192"));
  EXPECT_TRUE(refused("0-99999999999"));
  EXPECT_TRUE(refused("99999999999"));
  EXPECT_TRUE(refused("4294967296"));              // 2^32 must not become 0
  EXPECT_TRUE(refused("18446744073709551616-0"));  // nor 2^64
  EXPECT_TRUE(refused("0-7:1/99999999999999999999x"));
  EXPECT_TRUE(refused(std::string(60000, '9')));
}

TEST(CpuSet, RefusesAFloodOfTextWithAShortMessage) {
  const std::string message = parsed(std::string(std::size_t{1} << 20, ','));
  EXPECT_TRUE(message.starts_with("error: "));
  EXPECT_LT(message.size(), 300U);
  const std::string number = parsed(std::string(60000, '7'));
  EXPECT_LT(number.size(), 300U);
}

TEST(CpuSet, MessagesCarryNoControlCharacters) {
  EXPECT_EQ(parsed("\x1b[2J").find('\x1b'), std::string::npos);
}

TEST(CpuSet, TheLongestSensibleListFits) {
  std::string text;
  for (std::uint32_t cpu = 0; cpu < CpuSet::kMaxCpus; ++cpu) text += std::to_string(cpu) + ",";
  text.pop_back();
  EXPECT_EQ(parsed(text), "0-8191");
}

TEST(CpuSet, TextGivesTheSameSetBack) {
  test::Prng prng(1);
  for (int round = 0; round < 200; ++round) {
    CpuSet set;
    const std::size_t count = prng.below(60);
    for (std::size_t i = 0; i < count; ++i) set.insert(static_cast<std::uint32_t>(prng.below(100)));
    const auto back = CpuSet::parse(set.to_string());
    ASSERT_TRUE(back) << set.to_string();
    EXPECT_EQ(*back, set);
  }
}

TEST(CpuSet, FirstSubsetAndMembership) {
  EXPECT_EQ(CpuSet::first(0), CpuSet());
  EXPECT_EQ(CpuSet::first(4).to_string(), "0-3");
  EXPECT_EQ(CpuSet::first(UINT32_MAX).size(), std::size_t{CpuSet::kMaxCpus});
  EXPECT_TRUE(CpuSet::first(2).is_subset_of(CpuSet::first(4)));
  EXPECT_FALSE(CpuSet::first(4).is_subset_of(CpuSet::first(2)));
  EXPECT_TRUE(CpuSet().is_subset_of(CpuSet()));
  EXPECT_TRUE(CpuSet({3}).contains(3));
  EXPECT_FALSE(CpuSet({3}).contains(2));
}

}  // namespace
}  // namespace ktstr
