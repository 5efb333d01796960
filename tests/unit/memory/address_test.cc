#include "host/memory/address.h"

#include <type_traits>
#include <unordered_set>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

static_assert(!std::is_convertible_v<std::uint64_t, Gpa>);
static_assert(!std::is_convertible_v<Gpa, std::uint64_t>);
static_assert(!std::is_constructible_v<Gpa, Kva>);
static_assert(sizeof(Kva) == 8 && std::is_trivially_copyable_v<Kva>);

TEST(Address, ComparesAsUnsigned) {
  EXPECT_EQ(Gpa(), Gpa(0));
  EXPECT_LT(Kva(0x7fffffffffffffff), Kva(0x8000000000000000));
  EXPECT_GT(Kva(~0ull), Kva(0));
}

TEST(Address, ArithmeticWraps) {
  EXPECT_EQ(Kva(~0ull) + 1, Kva(0));
  EXPECT_EQ(Kva(0) - 8, Kva(0xfffffffffffffff8));
  EXPECT_EQ(Kva(0x10) - Kva(0x20), 0xfffffffffffffff0u);
  EXPECT_EQ(Kva(0x20) - Kva(0x10), 0x10u);
  Gpa gpa(0xffffffffffffff00);
  gpa += 0x101;
  EXPECT_EQ(gpa, Gpa(1));
}

TEST(Address, IsWrittenAsHex) {
  EXPECT_EQ(fmt::format("{}", Kva(0xffff888000001000)), "0xffff888000001000");
  EXPECT_EQ(fmt::format("[{}]", Gpa(0)), "[0x0]");
}

TEST(Address, CanBeKeptInASetOfSeenOnes) {
  std::unordered_set<Kva> seen;
  EXPECT_TRUE(seen.insert(Kva(8)).second);
  EXPECT_FALSE(seen.insert(Kva(8)).second);
}

}  // namespace
}  // namespace ktstr
