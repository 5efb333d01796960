#include "common/error.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace ktstr {
namespace {

Expected<int> innermost() {
  errno = ENOENT;
  return fail_errno(ErrorCode::kUsage, "cannot open '/x'");
}

Expected<int> middle() {
  auto value = innermost();
  if (!value) return propagate(std::move(value.error()), "packing the initramfs");
  return *value + 1;
}

Expected<> outermost() {
  auto value = middle();
  if (!value) return propagate(std::move(value.error()), "preparing the run");
  return {};
}

TEST(Error, CarriesCodeAndMessage) {
  const Expected<int> result = fail(ErrorCode::kTimeout, "no answer for 3 s");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::kTimeout);
  EXPECT_EQ(result.error().message(), "no answer for 3 s");
  EXPECT_EQ(result.error().to_string(), "no answer for 3 s");
  EXPECT_EQ(result.error().errno_value(), 0);
  EXPECT_EQ(result.error().detail(), "");
}

TEST(Error, ContextIsChainedFromTheInsideOut) {
  const auto result = outermost();
  ASSERT_FALSE(result);
  EXPECT_EQ(
      result.error().to_string(),
      "cannot open '/x': No such file or directory (while packing the initramfs) (while preparing the run)");
  EXPECT_EQ(result.error().message(), "cannot open '/x': No such file or directory");
}

TEST(Error, ErrnoAndCodeSurviveTheChain) {
  const auto result = outermost();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().errno_value(), ENOENT);
  EXPECT_EQ(result.error().code(), ErrorCode::kUsage);
}

TEST(Error, CodeCanBeReplacedByACallerWhoKnowsBetter) {
  const Error error =
      Error::from_errno(ErrorCode::kHost, "cannot write", ENOSPC).with_code(ErrorCode::kStartFailed);
  EXPECT_EQ(error.code(), ErrorCode::kStartFailed);
  EXPECT_EQ(error.errno_value(), ENOSPC);
}

TEST(Error, DetailStaysOutOfTheOneLine) {
  const Error error = Error(ErrorCode::kStartFailed, "refused by the verifier")
                          .with_detail("line 1\nline 2")
                          .while_doing("loading it");
  EXPECT_EQ(error.to_string(), "refused by the verifier (while loading it)");
  EXPECT_EQ(error.detail(), "line 1\nline 2");
}

TEST(Error, AnUnknownErrnoStillGivesText) {
  EXPECT_EQ(Error::from_errno(ErrorCode::kHost, "odd", 9999).to_string(), "odd: Unknown error 9999");
}

TEST(Error, FailErrnoReadsErrnoBeforeItAllocates) {
  errno = EPERM;
  const Expected<> result = fail_errno(ErrorCode::kHost, std::string(10000, 'x'));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().errno_value(), EPERM);
}

// The numbers are a contract with scripts and with git bisect (docs/exit-codes.md).
TEST(Error, CodesAreTheExitCodes) {
  EXPECT_EQ(static_cast<int>(ErrorCode::kUsage), 2);
  EXPECT_EQ(static_cast<int>(ErrorCode::kKernelPanic), 3);
  EXPECT_EQ(static_cast<int>(ErrorCode::kSchedulerDied), 4);
  EXPECT_EQ(static_cast<int>(ErrorCode::kTimeout), 5);
  EXPECT_EQ(static_cast<int>(ErrorCode::kNoBoot), 10);
  EXPECT_EQ(static_cast<int>(ErrorCode::kKernelLacks), 11);
  EXPECT_EQ(static_cast<int>(ErrorCode::kStartFailed), 12);
  EXPECT_EQ(static_cast<int>(ErrorCode::kHost), 20);
  EXPECT_EQ(static_cast<int>(ErrorCode::kInconclusive), 21);
}

}  // namespace
}  // namespace ktstr
