#include "common/quote.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

TEST(Quote, PlainTextStaysReadable) {
  EXPECT_EQ(quote("scx_simple -v"), "'scx_simple -v'");
}

TEST(Quote, EscapesWhatCouldSteerATerminal) {
  EXPECT_EQ(quote("a\nb\t\x1b[2J\x7f"), "'a\\nb\\t\\x1b[2J\\x7f'");
  EXPECT_EQ(quote("\xc2\x9b"), "'\\xc2\\x9b'");
  EXPECT_EQ(quote(std::string_view("\0", 1)), "'\\x00'");
}

TEST(Quote, EscapesItsOwnMarks) {
  EXPECT_EQ(quote("it's \\"), "'it\\'s \\\\'");
}

TEST(Quote, CutsLongText) {
  EXPECT_EQ(quote("abcdef", 3), "'abc'...");
  EXPECT_EQ(quote("abc", 3), "'abc'");
  EXPECT_EQ(quote(std::string(1U << 20, 'x')).size(), 65U);
}

}  // namespace
}  // namespace ktstr
