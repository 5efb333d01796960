// The frame codec on streams that are damaged by accident or made to hurt. Work is counted (checked_bytes),
// not timed.
#include <malloc.h>

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/frame_codec.h"
#include "tests/unit/common/frame_stream.h"
#include "tests/unit/common/prng.h"

namespace ktstr {
namespace {

using Payloads = std::vector<std::string>;
using test::bad_header;
using test::decode;
using test::drain;
using test::feed;

constexpr std::size_t kMiB = std::size_t{1} << 20;

const Payloads kSent = {"the first frame", "the second one, which is longer than the first", "third"};

std::string three_frames() {
  FrameEncoder encoder;
  std::string stream;
  for (const std::string& payload : kSent) stream += encoder.encode(payload);
  return stream;
}

// Which of the three frames holds the byte at `at`.
std::size_t frame_at(std::size_t at) {
  std::size_t index = 0;
  while (at >= kFrameHeaderSize + kSent[index].size()) at -= kFrameHeaderSize + kSent[index++].size();
  return index;
}

TEST(FrameDamage, EveryByteOfThreeFramesInEveryWay) {
  const std::string good = three_frames();
  for (std::size_t at = 0; at < good.size(); ++at) {
    const std::size_t hit = frame_at(at);
    Payloads expected = kSent;
    expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(hit));
    for (unsigned flip = 1; flip < 256; ++flip) {
      std::string stream = good;
      stream[at] = static_cast<char>(static_cast<unsigned char>(stream[at]) ^ flip);
      const auto decoded = decode(stream);
      ASSERT_EQ(decoded.payloads, expected) << "byte " << at << " xor " << flip;
      ASSERT_EQ(decoded.stats.skipped_bytes, kFrameHeaderSize + kSent[hit].size());
      ASSERT_EQ(decoded.stats.resyncs, 1U);
      ASSERT_EQ(decoded.stats.lost, hit == 2 ? 0U : 1U);  // nothing follows the third that could tell
      ASSERT_EQ(decoded.stats.breaks, 0U);
      ASSERT_FALSE(decoded.stats.intact());
    }
  }
}

TEST(FrameDamage, EveryByteMissing) {
  const std::string good = three_frames();
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string stream = good;
    stream.erase(at, 1);
    Payloads expected = kSent;
    expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(frame_at(at)));
    const auto decoded = decode(stream);
    // The next frame's first byte completes the damaged frame, wrongly, and must not be lost with it.
    ASSERT_EQ(decoded.payloads, expected) << at;
  }
}

TEST(FrameDamage, EveryTruncation) {
  const std::string good = three_frames();
  for (std::size_t length = 0; length < good.size(); ++length) {
    const std::size_t whole = frame_at(length);
    const auto decoded = decode(std::string_view(good).substr(0, length));
    ASSERT_EQ(decoded.payloads, Payloads(kSent.begin(), kSent.begin() + static_cast<std::ptrdiff_t>(whole)));
    std::size_t complete = 0;
    for (std::size_t i = 0; i < whole; ++i) complete += kFrameHeaderSize + kSent[i].size();
    ASSERT_EQ(decoded.stats.skipped_bytes, length - complete);
    ASSERT_EQ(decoded.stats.intact(), length == complete);
  }
}

TEST(FrameDamage, GarbageAroundFramesIsSkippedAndCounted) {
  test::Prng prng(6);
  FrameEncoder encoder;
  std::string stream;
  Payloads sent;
  std::size_t garbage = 0;
  for (int i = 0; i < 100; ++i) {
    const std::string noise = prng.bytes(1 + prng.below(50));
    garbage += noise.size();
    sent.push_back(prng.bytes(prng.below(200)));
    stream += noise + encoder.encode(sent.back());
  }
  const auto decoded = decode(stream);
  EXPECT_EQ(decoded.payloads, sent);
  EXPECT_EQ(decoded.stats.resyncs, 100U);
  EXPECT_EQ(decoded.stats.skipped_bytes, garbage);
  EXPECT_EQ(decoded.stats.lost, 0U);
}

TEST(FrameDamage, ConsoleTextWithBeginningsOfAMagic) {
  FrameEncoder encoder;
  const auto decoded = decode("KT KTS KTSKTS KKTS" + encoder.encode("good") + "KTS");
  EXPECT_EQ(decoded.payloads, Payloads{"good"});
  EXPECT_EQ(decoded.stats.skipped_bytes, 18U + 3U);
}

TEST(FrameDamage, AnImpossibleLengthIsRefusedAtOnce) {
  for (const std::uint32_t length :
       {0xffffffffU, 0x80000000U, 0xfffffff0U, std::uint32_t{kMaxFramePayload} + 1}) {
    FrameEncoder encoder;
    FrameDecoder decoder;
    feed(decoder, bad_header(length) + encoder.encode("good"));
    EXPECT_EQ(drain(decoder), Payloads{"good"}) << length;
    EXPECT_EQ(decoder.stats().skipped_bytes, kFrameHeaderSize);
    EXPECT_EQ(decoder.pending(), 0U);
  }
}

TEST(FrameDamage, AHeaderThatIsCutShortDoesNotHideTheNext) {
  for (const std::uint32_t length : {0U, 5U, 100U, 0xffffffffU}) {
    for (std::size_t size = 1; size <= kFrameHeaderSize; ++size) {
      FrameEncoder encoder;
      const std::string stream = bad_header(length).substr(0, size) + encoder.encode("good");
      const auto decoded = decode(stream);
      EXPECT_EQ(decoded.payloads, Payloads{"good"}) << length << ' ' << size;
      EXPECT_EQ(decoded.stats.skipped_bytes, size);
    }
  }
}

TEST(FrameDamage, APossibleLengthCannotSwallowTheFramesBehindIt) {
  std::string stream = three_frames();
  stream[6] = 0x10;  // the first frame's length: 1 MiB more than it is
  FrameDecoder decoder;
  feed(decoder, stream);
  EXPECT_EQ(drain(decoder), Payloads{});  // it may still come
  EXPECT_EQ(decoder.pending(), stream.size());
  // More frames come until the claimed length is full: then all of them are found.
  FrameEncoder encoder(3);
  Payloads expected = {kSent[1], kSent[2]};
  for (int i = 0; i < 20; ++i) {
    expected.emplace_back(60000, static_cast<char>('a' + i));
    feed(decoder, encoder.encode(expected.back()));
  }
  EXPECT_EQ(drain(decoder), expected);
  EXPECT_EQ(decoder.stats().lost, 1U);
  EXPECT_EQ(decoder.stats().skipped_bytes, kFrameHeaderSize + kSent[0].size());
}

TEST(FrameDamage, GiveUpFindsTheFramesBehindADamagedLength) {
  std::string stream = three_frames();
  stream[6] = 0x10;
  FrameDecoder decoder;
  feed(decoder, stream);
  EXPECT_EQ(drain(decoder), Payloads{});
  decoder.give_up();
  EXPECT_EQ(drain(decoder), (Payloads{kSent[1], kSent[2]}));
  EXPECT_EQ(decoder.stats().lost, 1U);
  EXPECT_EQ(decoder.stats().resyncs, 1U);
  EXPECT_EQ(decoder.pending(), 0U);
}

TEST(FrameDamage, GiveUpBetweenFramesDoesNothing) {
  FrameEncoder encoder;
  FrameDecoder decoder;
  decoder.give_up();
  feed(decoder, encoder.encode("good"));
  EXPECT_EQ(drain(decoder), Payloads{"good"});
  decoder.give_up();
  EXPECT_TRUE(decoder.stats().intact());
}

TEST(FrameDamage, HowTheStreamIsCutChangesNothing) {
  test::Prng prng(7);
  for (int round = 0; round < 30; ++round) {
    FrameEncoder encoder;
    std::string stream;
    for (int i = 0; i < 20; ++i) stream += encoder.encode(prng.bytes(prng.below(300)));
    for (std::size_t i = prng.below(30); i > 0; --i) {
      const std::size_t at = prng.below(stream.size());
      switch (prng.below(4)) {
        case 0:
          stream[at] = static_cast<char>(prng.next());
          break;
        case 1:
          stream.erase(at, prng.below(100));
          break;
        case 2:
          stream.insert(at, prng.bytes(prng.below(100)));
          break;
        default:
          stream.insert(at, bad_header(static_cast<std::uint32_t>(prng.below(2000))));
          break;
      }
    }
    const auto whole = decode(stream);
    for (const std::size_t chunk : {std::size_t{1}, std::size_t{3}, std::size_t{17}, std::size_t{1000}}) {
      const auto cut = decode(stream, chunk);
      ASSERT_EQ(cut.payloads, whole.payloads) << round << ' ' << chunk;
      ASSERT_EQ(cut.stats, whole.stats) << round << ' ' << chunk;
    }
  }
}

TEST(FrameDamage, EveryByteIsAccountedFor) {
  test::Prng prng(8);
  for (int round = 0; round < 200; ++round) {
    FrameEncoder encoder;
    std::string stream;
    for (int i = 0; i < 5; ++i)
      stream += encoder.encode(prng.bytes(prng.below(100))) + prng.bytes(prng.below(20));
    stream[prng.below(stream.size())] = static_cast<char>(prng.next());
    const auto decoded = decode(stream, 1 + prng.below(64));
    std::size_t good = 0;
    for (const std::string& payload : decoded.payloads) good += kFrameHeaderSize + payload.size();
    ASSERT_EQ(good + decoded.stats.skipped_bytes, stream.size());
  }
}

// The bound that the header promises, for a stream of `bytes` bytes.
std::size_t work_bound(std::size_t bytes) {
  return 2 * bytes + 17 * (kMaxFramePayload + kFrameHeaderSize);
}

std::string repeated(std::string_view pattern, std::size_t size) {
  std::string stream;
  stream.reserve(size + pattern.size());
  while (stream.size() < size) stream += pattern;
  return stream;
}

TEST(HostileFrames, NothingButMagicsCostsNoChecksums) {
  const std::string stream = repeated("KTS1", 4 * kMiB);
  const auto decoded = decode(stream, 65536);
  EXPECT_TRUE(decoded.payloads.empty());
  EXPECT_EQ(decoded.stats.checked_bytes, 0U);
  EXPECT_EQ(decoded.stats.skipped_bytes, stream.size());
  EXPECT_EQ(decoded.stats.resyncs, 1U);
}

TEST(HostileFrames, AHeaderAtEveryEighthByteIsLinearWork) {
  // Each pair of words is a header whose checksum and sequence are the next pair; each claims nearly the
  // largest length.
  const std::string pattern = test::le32(kFrameMagic) + test::le32(kMaxFramePayload - 5);
  const std::string stream = repeated(pattern, 8 * kMiB);
  const auto decoded = decode(stream, 65536);
  EXPECT_TRUE(decoded.payloads.empty());
  EXPECT_GT(decoded.stats.checked_bytes, 0U);
  EXPECT_LE(decoded.stats.checked_bytes, work_bound(stream.size()));
  EXPECT_EQ(decoded.stats.skipped_bytes, stream.size());
}

TEST(HostileFrames, MiddlingLengthsAreLinearWorkToo) {
  const std::string pattern = test::le32(kFrameMagic) + test::le32(20000);
  const std::string stream = repeated(pattern, 2 * kMiB);
  const auto decoded = decode(stream, 4096);
  EXPECT_LE(decoded.stats.checked_bytes, work_bound(stream.size()));
  EXPECT_EQ(decoded.stats.skipped_bytes, stream.size());
}

TEST(HostileFrames, GoodFramesAreFoundAgainAfterAnAttack) {
  std::string stream = repeated(test::le32(kFrameMagic) + test::le32(kMaxFramePayload), 12 * kMiB);
  FrameEncoder encoder;
  // The purse may be overdrawn by one frame: as many bytes, at most, are skipped before frames are believed
  // again.
  const std::string filler(65536, 'x');
  for (std::size_t sent = 0; sent <= 2 * kMaxFramePayload; sent += filler.size())
    stream += encoder.encode(filler);
  stream += encoder.encode("found");
  const auto decoded = decode(stream, 65536);
  ASSERT_FALSE(decoded.payloads.empty());
  EXPECT_EQ(decoded.payloads.back(), "found");
  EXPECT_LE(decoded.stats.checked_bytes, work_bound(stream.size()));
}

TEST(HostileFrames, ADamagedLargeFrameFullOfMagicsLosesNothingElse) {
  FrameEncoder encoder;
  std::string damaged = encoder.encode(repeated(bad_header(1000), kMiB));
  damaged[5000] = static_cast<char>(damaged[5000] ^ 1);
  const std::string stream = damaged + encoder.encode("next");
  const auto decoded = decode(stream, 65536);
  EXPECT_EQ(decoded.payloads, Payloads{"next"});
  EXPECT_EQ(decoded.stats.lost, 1U);
}

TEST(HostileFrames, MemoryIsBounded) {
  const std::string attack = repeated(test::le32(kFrameMagic) + test::le32(kMaxFramePayload), kMiB);
  const std::string_view view = attack;
  const auto allocated = [] {
    const auto info = ::mallinfo2();  // all zero under AddressSanitizer, where this test says nothing
    return info.uordblks + info.hblkhd;
  };
  const std::size_t before = allocated();
  FrameDecoder decoder;
  std::size_t most_pending = 0;
  std::size_t most_allocated = 0;
  for (int megabyte = 0; megabyte < 16; ++megabyte) {
    for (std::size_t at = 0; at < view.size(); at += 65536) {
      feed(decoder, view.substr(at, 65536));
      drain(decoder);
      most_pending = std::max(most_pending, decoder.pending());
      most_allocated = std::max(most_allocated, allocated());
    }
  }
  EXPECT_LE(most_pending, kMaxFramePayload + kFrameHeaderSize);
  // Twice for bytes that are read and not yet removed, twice for the growth of a vector.
  EXPECT_LE(most_allocated, before + 4 * (kMaxFramePayload + 65536));
}

TEST(HostileFrames, MemoryOfALargeFrameIsGivenBack) {
  const auto allocated = [] {
    const auto info = ::mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  const std::size_t before = allocated();
  FrameEncoder encoder;
  FrameDecoder decoder;
  feed(decoder, encoder.encode(std::string(kMaxFramePayload, 'x')));
  EXPECT_EQ(drain(decoder).size(), 1U);
  feed(decoder, encoder.encode("small"));
  EXPECT_EQ(drain(decoder), Payloads{"small"});
  EXPECT_LE(allocated(), before + kMiB);
}

}  // namespace
}  // namespace ktstr
