#include "common/unique_fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <utility>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

UniqueFd open_one() {
  return UniqueFd(::eventfd(0, EFD_CLOEXEC));
}
bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

TEST(UniqueFd, IsEmptyByDefault) {
  const UniqueFd fd;
  EXPECT_FALSE(fd);
  EXPECT_EQ(fd.get(), -1);
}

TEST(UniqueFd, ClosesWhatItHolds) {
  int number = -1;
  {
    const UniqueFd fd = open_one();
    number = fd.get();
    ASSERT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, ZeroIsADescriptor) {
  UniqueFd fd(0);
  EXPECT_TRUE(fd);
  EXPECT_EQ(fd.release(), 0);
  EXPECT_TRUE(is_open(0));
}

TEST(UniqueFd, MoveConstructionEmptiesTheSource) {
  UniqueFd from = open_one();
  const int number = from.get();
  const UniqueFd to(std::move(from));
  EXPECT_EQ(to.get(), number);
  EXPECT_EQ(from.get(), -1);  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_TRUE(is_open(number));
}

TEST(UniqueFd, MoveAssignmentClosesTheOldAndKeepsTheNew) {
  UniqueFd target = open_one();
  UniqueFd source = open_one();
  const int old_number = target.get();
  const int new_number = source.get();
  target = std::move(source);
  EXPECT_FALSE(is_open(old_number));
  EXPECT_TRUE(is_open(new_number));
  EXPECT_EQ(target.get(), new_number);
  EXPECT_EQ(source.get(), -1);  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
}

TEST(UniqueFd, MoveAssignmentFromAnEmptyOneCloses) {
  UniqueFd target = open_one();
  const int number = target.get();
  target = UniqueFd();
  EXPECT_FALSE(is_open(number));
  EXPECT_FALSE(target);
}

TEST(UniqueFd, SelfMoveKeepsTheDescriptor) {
  UniqueFd fd = open_one();
  const int number = fd.get();
  UniqueFd& same = fd;
  fd = std::move(same);
  EXPECT_EQ(fd.get(), number);
  EXPECT_TRUE(is_open(number));
}

TEST(UniqueFd, ResetToTheSameDescriptorKeepsItOpen) {
  UniqueFd fd = open_one();
  fd.reset(fd.get());
  EXPECT_TRUE(is_open(fd.get()));
}

TEST(UniqueFd, ReleaseGivesTheDescriptorAway) {
  UniqueFd fd = open_one();
  const UniqueFd other(fd.release());
  EXPECT_FALSE(fd);
  EXPECT_TRUE(is_open(other.get()));
}

}  // namespace
}  // namespace ktstr
