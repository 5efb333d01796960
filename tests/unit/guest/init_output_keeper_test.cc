#include <gtest/gtest.h>

#include "guest/init/output_keeper.h"

namespace ktstr::guest {
namespace {

using Lines = std::vector<std::string>;

TEST(OutputBudget, PassesTheBeginningAndKeepsTheEnd) {
  OutputBudget budget(10, 4);
  EXPECT_EQ(budget.take("abcdef"), "abcdef");
  EXPECT_EQ(budget.take("ghijklm"), "ghij");
  EXPECT_EQ(budget.take("nopqr"), "");
  const auto rest = budget.take_rest();
  EXPECT_EQ(rest.data, "opqr");
  EXPECT_EQ(rest.dropped, 4U);  // klmn
  EXPECT_EQ(budget.take_rest().data, "");
}

TEST(OutputBudget, NothingIsHeldBackWithinTheBudget) {
  OutputBudget budget(10, 4);
  EXPECT_EQ(budget.take("0123456789"), "0123456789");
  EXPECT_TRUE(budget.take_rest().data.empty());
  EXPECT_EQ(budget.take_rest().dropped, 0U);
}

TEST(LineTail, KeepsTheLastLinesInOrder) {
  LineTail tail(2);
  tail.add("one\ntwo\nth");
  tail.add("ree\n\nfour");
  EXPECT_EQ(tail.lines(), (Lines{"two", "three", "four"}));
  EXPECT_EQ(tail.text(2), "three\nfour");
  EXPECT_EQ(tail.text(9), "two\nthree\nfour");
  EXPECT_EQ(LineTail(3).text(5), "");
}

TEST(LineTail, RemovesWhatSteersATerminal) {
  LineTail tail(5);
  tail.add("\x1b[1;31mred\x1b[0m\r\n\x1b");
  tail.add("[2Kpart\tx\x07\xc3\n");
  tail.add("\x1b(Bplain\n");
  EXPECT_EQ(tail.lines(), (Lines{"red", "part x??", "Bplain"}));
}

TEST(LineTail, CutsLongLines) {
  LineTail tail(2);
  tail.add(std::string(1 << 20, 'x'));
  ASSERT_EQ(tail.lines().size(), 1U);
  EXPECT_EQ(tail.lines()[0].size(), LineTail::kMaxLine);
}

}  // namespace
}  // namespace ktstr::guest
