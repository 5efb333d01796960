#include "common/crc32c.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "tests/unit/common/prng.h"

namespace ktstr {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// RFC 3720, appendix B.4, and the check value that catalogues of CRCs list.
TEST(Crc32c, PublishedVectors) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283U);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8a9136aaU);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\xff'))), 0x62a8ab43U);
  std::string rising;
  for (char c = 0; c < 32; ++c) rising += c;
  EXPECT_EQ(crc32c(bytes_of(rising)), 0x46dd794eU);
  EXPECT_EQ(crc32c({}), 0U);
}

TEST(Crc32c, TableKnowsThePublishedVectorToo) {
  EXPECT_EQ(crc32c_detail::table(bytes_of("123456789"), 0), 0xe3069283U);
}

TEST(Crc32c, HardwareAndTableAgreeForAllLengthsAndAlignments) {
  const auto hardware = crc32c_detail::hardware();
  if (hardware == nullptr) GTEST_SKIP() << "this CPU has no SSE4.2";
  test::Prng prng(3);
  const std::string text = prng.bytes(400);
  for (std::size_t offset = 0; offset < 16; ++offset) {
    for (std::size_t length = 0; length + offset <= 300; ++length) {
      const auto part = bytes_of(std::string_view(text).substr(offset, length));
      const auto before = static_cast<std::uint32_t>(prng.next());
      ASSERT_EQ(hardware(part, before), crc32c_detail::table(part, before)) << offset << ' ' << length;
    }
  }
  const std::string large = prng.bytes(1000003);
  EXPECT_EQ(hardware(bytes_of(large), 0), crc32c_detail::table(bytes_of(large), 0));
}

TEST(Crc32c, ContinuesAcrossAnyCut) {
  test::Prng prng(4);
  const std::string text = prng.bytes(100);
  const std::uint32_t whole = crc32c(bytes_of(text));
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const std::string_view view = text;
    EXPECT_EQ(crc32c(bytes_of(view.substr(cut)), crc32c(bytes_of(view.substr(0, cut)))), whole) << cut;
  }
}

}  // namespace
}  // namespace ktstr
