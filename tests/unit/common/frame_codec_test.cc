// The frame codec on streams as they should be, and its sequence numbers. Damage and hostility:
// frame_damage_test.cc.
#include "common/frame_codec.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/common/frame_stream.h"
#include "tests/unit/common/prng.h"

namespace ktstr {
namespace {

using Payloads = std::vector<std::string>;
using test::decode;
using test::drain;
using test::feed;

TEST(FrameEncoder, WritesTheDocumentedHeader) {
  FrameEncoder encoder;
  // The checksum was computed by another program over 03000000 00000000 "abc".
  EXPECT_EQ(encoder.encode("abc"),
            std::string("KTS1") + test::le32(3) + test::le32(0x40804487) + test::le32(0) + "abc");
  EXPECT_EQ(encoder.count(), 1U);
  EXPECT_EQ(encoder.encode("").substr(12), test::le32(1));
}

TEST(FrameEncoder, RefusesWhatIsTooLargeAndDoesNotNumberIt) {
  FrameEncoder encoder;
  EXPECT_EQ(encoder.encode(std::string(kMaxFramePayload + 1, 'x')), "");
  EXPECT_EQ(encoder.count(), 0U);
}

TEST(FrameCodec, RoundTrip) {
  test::Prng prng(5);
  FrameEncoder encoder;
  Payloads sent = {"",
                   "a",
                   std::string(1, '\0'),
                   "KTS1",
                   std::string(kFrameHeaderSize, 'x'),
                   std::string(kMaxFramePayload, 'y')};
  for (int i = 0; i < 50; ++i) sent.push_back(prng.bytes(prng.below(3000)));
  std::string stream;
  for (const std::string& payload : sent) stream += encoder.encode(payload);
  const auto decoded = decode(stream);
  EXPECT_EQ(decoded.payloads, sent);
  EXPECT_EQ(decoded.stats.frames, sent.size());
  EXPECT_EQ(decoded.stats.bytes, stream.size());
  EXPECT_EQ(decoded.stats.skipped_bytes, 0U);
  EXPECT_TRUE(decoded.stats.intact());
}

TEST(FrameCodec, APayloadMayLookLikeAFrame) {
  FrameEncoder inner(77);
  FrameEncoder encoder;
  const Payloads sent = {inner.encode("nested"), inner.encode("") + "KTS1", "after"};
  std::string stream;
  for (const std::string& payload : sent) stream += encoder.encode(payload);
  const auto decoded = decode(stream);
  EXPECT_EQ(decoded.payloads, sent);
  EXPECT_TRUE(decoded.stats.intact());
}

TEST(FrameDecoder, ByteByByteDeliversEachFrameWithItsLastByte) {
  FrameEncoder encoder;
  const std::string first = encoder.encode("first");
  const std::string second = encoder.encode("");
  FrameDecoder decoder;
  std::size_t at = 0;
  for (const char byte : first + second) {
    feed(decoder, std::string_view(&byte, 1));
    ++at;
    const auto payloads = drain(decoder);
    ASSERT_EQ(payloads.size(), at == first.size() || at == first.size() + second.size() ? 1U : 0U) << at;
  }
  EXPECT_EQ(decoder.stats().frames, 2U);
  EXPECT_EQ(decoder.pending(), 0U);
  EXPECT_TRUE(decoder.stats().intact());
}

TEST(FrameDecoder, NothingIsDecodedFromNothing) {
  FrameDecoder decoder;
  EXPECT_FALSE(decoder.next());
  feed(decoder, "");
  EXPECT_FALSE(decoder.next());
  decoder.finish();
  EXPECT_FALSE(decoder.next());
  EXPECT_TRUE(decoder.stats().intact());
}

TEST(FrameDecoder, BytesAfterTheEndAreCountedAsSkipped) {
  FrameEncoder encoder;
  FrameDecoder decoder;
  decoder.finish();
  feed(decoder, encoder.encode("late"));
  EXPECT_FALSE(decoder.next());
  EXPECT_EQ(decoder.stats().skipped_bytes, kFrameHeaderSize + 4);
}

// What a decoder that got frames with these sequence numbers, and no others, has counted.
FrameDecoder::Stats stats_of(const std::vector<std::uint64_t>& numbers) {
  std::string stream;
  for (const std::uint64_t number : numbers) stream += FrameEncoder(number).encode("x");
  const auto decoded = decode(stream);
  EXPECT_EQ(decoded.payloads.size(), numbers.size());  // delivered whatever the number
  EXPECT_EQ(decoded.stats.resyncs, 0U);
  return decoded.stats;
}

TEST(FrameSequence, GapsAreLostFrames) {
  EXPECT_EQ(stats_of({0, 1, 2}).lost, 0U);
  EXPECT_EQ(stats_of({0, 2}).lost, 1U);
  EXPECT_EQ(stats_of({0, 5, 6, 10}).lost, 7U);
  EXPECT_EQ(stats_of({3}).lost, 3U);  // the first ones are missing
  EXPECT_EQ(stats_of({0, 5, 6, 10}).breaks, 0U);
  EXPECT_FALSE(stats_of({0, 2}).intact());
}

TEST(FrameSequence, WrapsWithoutALoss) {
  constexpr std::uint64_t kWrap = std::uint64_t{1} << 32;
  std::vector<std::uint64_t> numbers;
  for (std::uint64_t number = kWrap - 3; number < kWrap + 3; ++number) numbers.push_back(number);
  const auto stats = stats_of(numbers);
  EXPECT_EQ(stats.lost, 0U);
  EXPECT_EQ(stats.breaks, 1U);  // that it began so high
  EXPECT_EQ(stats_of({kWrap - 2, kWrap + 1}).lost, 2U);
}

TEST(FrameSequence, AJumpBackIsABreakAndNotAHugeLoss) {
  const auto stats = stats_of({0, 1, 2, 0, 1, 2});  // the peer began anew
  EXPECT_EQ(stats.lost, 0U);
  EXPECT_EQ(stats.breaks, 1U);
  EXPECT_FALSE(stats.intact());
  EXPECT_EQ(stats_of({0, 0, 0}).breaks, 2U);
  EXPECT_EQ(stats_of({0, 0, 0}).lost, 0U);
}

TEST(FrameSequence, OnlyAPlausibleGapIsBelieved) {
  EXPECT_EQ(stats_of({0, 1 + kMaxSequenceGap}).lost, kMaxSequenceGap);
  EXPECT_EQ(stats_of({0, 1 + kMaxSequenceGap}).breaks, 0U);
  EXPECT_EQ(stats_of({0, 2 + std::uint64_t{kMaxSequenceGap}}).lost, 0U);
  EXPECT_EQ(stats_of({0, 2 + std::uint64_t{kMaxSequenceGap}}).breaks, 1U);
  EXPECT_EQ(stats_of({0, 0x80000000, 0, 0x80000000}).lost, 0U);
}

TEST(FrameSequence, CountingGoesOnAfterABreak) {
  const auto stats = stats_of({0, 0x70000000, 0x70000001, 0x70000003});
  EXPECT_EQ(stats.breaks, 1U);
  EXPECT_EQ(stats.lost, 1U);
}

}  // namespace
}  // namespace ktstr
