#include "host/kernel/payload.h"

#include <gtest/gtest.h>

#include "host/kernel/bytes.h"
#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {
namespace {

struct Result {
  std::string data;
  std::string error;
};

Result unpack(const std::string& payload) {
  Result result;
  auto size = unpack_payload(bytes_of(payload), [&result](std::span<const std::byte> bytes) -> Expected<> {
    result.data += as_text(bytes);
    return {};
  });
  if (size) {
    EXPECT_EQ(*size, result.data.size());
  } else {
    EXPECT_EQ(size.error().code(), ErrorCode::kUsage);
    result.error = size.error().to_string();
  }
  return result;
}

class EveryMethod : public testing::TestWithParam<Compression> {};

TEST_P(EveryMethod, RoundTrips) {
  const std::string elf = make_elf({.padding = 300'000});
  const std::string payload = make_payload(elf, GetParam());
  EXPECT_EQ(detect_compression(bytes_of(payload)), GetParam());
  const Result result = unpack(payload);
  EXPECT_EQ(result.error, "");
  EXPECT_TRUE(result.data == elf);
}

TEST_P(EveryMethod, RefusesTruncations) {
  const std::string payload = make_payload(make_elf(), GetParam());
  for (std::size_t size = 0; size < payload.size();
       size += size < 32 || size + 32 > payload.size() ? 1U : 97U) {
    EXPECT_NE(unpack(payload.substr(0, size)).error, "")
        << "of " << payload.size() << " bytes " << size << " were enough";
  }
}

TEST_P(EveryMethod, RefusesAStreamCutBeforeAnIntactTrailer) {
  const std::string elf = make_elf();
  std::string payload = make_payload(elf, GetParam());
  payload.erase(payload.size() / 2, payload.size() / 4);
  EXPECT_NE(unpack(payload).error, "");
}

TEST_P(EveryMethod, RefusesAStreamThatYieldsMoreThanDeclared) {
  const std::string elf = make_elf({.padding = 300'000});
  std::string payload = make_payload(elf, GetParam());
  poke<std::uint32_t>(payload, payload.size() - 4, 1000);
  const Result result = unpack(payload);
  EXPECT_NE(result.error, "");
  EXPECT_LE(result.data.size(), 1000u);
}

TEST_P(EveryMethod, RefusesAStreamThatYieldsLessThanDeclared) {
  std::string payload = make_payload(make_elf(), GetParam());
  poke<std::uint32_t>(payload, payload.size() - 4, 1'000'000);
  EXPECT_NE(unpack(payload).error, "");
}

TEST_P(EveryMethod, RefusesATrailerBeyondTheLimitBeforeUnpackingAnything) {
  std::string payload = make_payload(make_elf(), GetParam());
  poke<std::uint32_t>(payload, payload.size() - 4, 0xffffffff);
  const Result result = unpack(payload);
  EXPECT_NE(result.error.find("at most"), std::string::npos) << result.error;
  EXPECT_EQ(result.data, "");
}

TEST_P(EveryMethod, NamesTheMethodOfADamagedStream) {
  std::string payload = make_payload(make_elf(), GetParam());
  for (std::size_t i = 8; i < payload.size() - 4; ++i) payload[i] = static_cast<char>(payload[i] ^ 0x5a);
  const Result result = unpack(payload);
  EXPECT_NE(result.error.find(compression_name(GetParam())), std::string::npos) << "error: " << result.error;
}

INSTANTIATE_TEST_SUITE_P(Payload, EveryMethod,
                         testing::Values(Compression::kGzip, Compression::kBzip2, Compression::kLzma,
                                         Compression::kXz, Compression::kLz4, Compression::kZstd),
                         [](const auto& instance) { return std::string(compression_name(instance.param)); });

TEST(Payload, NamesLzoAsNotSupported) {
  const std::string payload = std::string("\x89LZO\0\r\n\x1a\n", 9) + std::string(100, 'x');
  EXPECT_NE(unpack(payload).error.find("compressed with lzo; gzip"), std::string::npos)
      << unpack(payload).error;
}

TEST(Payload, ShowsTheFirstBytesOfAnUnknownMethod) {
  EXPECT_NE(unpack("abcdefgh").error.find("unknown method (it begins with 61 62 63 64 65 66)"),
            std::string::npos);
  EXPECT_NE(unpack("").error, "");
}

TEST(Payload, HandsTheSinksErrorOn) {
  auto size =
      unpack_payload(bytes_of(make_payload(make_elf(), Compression::kZstd)),
                     [](std::span<const std::byte>) -> Expected<> { return fail(ErrorCode::kHost, "full"); });
  ASSERT_FALSE(size);
  EXPECT_EQ(size.error().code(), ErrorCode::kHost);
  EXPECT_EQ(size.error().message(), "full");
}

}  // namespace
}  // namespace ktstr::test
