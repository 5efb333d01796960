// The frame codec: how protobuf messages travel over a byte stream that may lose or damage bytes.
//
// A frame is a 16-byte little-endian header and a payload:
//
//   offset 0  u32  magic   "KTS1" (0x3153544b)
//          4  u32  length  of the payload in bytes, at most kMaxFramePayload
//          8  u32  crc     CRC32C (Castagnoli) over length, sequence and payload
//         12  u32  sequence  0 for the first frame of a direction, then +1, wrapping
//
// The reader trusts nothing. A header with a wrong magic or an impossible length, or a payload whose checksum
// fails, makes it search for the next magic from the byte after the bad one, so that a damaged length cannot
// swallow the good frames behind it. What was skipped and how many frames are missing (sequence gaps) is
// counted; a caller puts that into the result, so a run whose stream was damaged says what is missing.
//
// Waiting. A length that was damaged into another possible one makes the reader wait for bytes that may never
// come, while good frames lie behind. Only the caller has a clock: a frame that stays incomplete (`pending`)
// although the stream is quiet is given up with `give_up`, or by `finish` at the end of the stream.
//
// Work. A hostile stream can begin a 4 MiB "frame" at every eighth byte, each of which costs 4 MiB of
// checksumming to refuse. So failed checksums are paid from a purse: every byte that leaves the reader puts
// one byte in, a refused frame takes its size out, and while the purse is overdrawn the reader skips without
// checking. Damage that is not made on purpose never gets there, as the purse holds 16 of the largest frames.
// For n bytes it checksums at most 2 n + kCheckPurse + one largest frame.
//
// Sequence. A number is only believed once the checksum holds, and then only as far as it makes sense. A
// number that is n ahead of the expected one, n at most kMaxSequenceGap, says that n frames are lost.
// Anything else, a jump back among it, is a break: the stream began anew or its writer is broken, and nobody
// knows how many frames are missing; that counts in `breaks` and not in `lost`. Either way the frame is
// delivered and the counting goes on from its number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/crc32c.h"

namespace ktstr {

inline constexpr std::uint32_t kFrameMagic = 0x3153544b;
inline constexpr std::size_t kFrameHeaderSize = 16;
// Largest payload either side sends or accepts. Bounds the memory a hostile peer can make us hold.
inline constexpr std::size_t kMaxFramePayload = std::size_t{4} << 20;
// Largest number of frames that one gap in the sequence can say are lost. At 1000 frames a second: a minute
// of silence.
inline constexpr std::uint32_t kMaxSequenceGap = 1U << 16;

// Numbers frames of one direction and puts headers before payloads.
class FrameEncoder {
 public:
  // `count` frames of this direction were sent before.
  explicit FrameEncoder(std::uint64_t count = 0) : count_(count) {}

  // Header and payload as they go on the wire. Empty when the payload is larger than kMaxFramePayload
  // (nothing is numbered then).
  std::string encode(std::string_view payload);
  // Number of frames of this direction so far; its low 32 bits are the next frame's sequence number.
  std::uint64_t count() const { return count_; }

 private:
  std::uint64_t count_;
};

// Cuts a byte stream into payloads. What it delivers and counts depends on the bytes alone, not on how they
// were cut into `feed` calls (give_up apart).
class FrameDecoder {
 public:
  struct Stats {
    std::uint64_t frames = 0;   // good frames delivered
    std::uint64_t bytes = 0;    // bytes fed
    std::uint64_t lost = 0;     // frames missing by sequence gaps
    std::uint64_t breaks = 0;   // sequence numbers that made no sense: an unknown number of frames is missing
    std::uint64_t resyncs = 0;  // times good framing was lost
    std::uint64_t skipped_bytes = 0;  // bytes that belonged to no good frame
    std::uint64_t checked_bytes = 0;  // bytes of frames that were checksummed: the work done

    bool operator==(const Stats&) const = default;
    // Whether everything that was sent arrived, as far as the stream tells.
    bool intact() const { return lost == 0 && breaks == 0 && resyncs == 0; }
  };

  // Takes bytes from the stream. Holds at most one incomplete frame plus what was fed and not fetched with
  // `next`. Nothing may be fed after `finish`; what is, counts as fed and skipped.
  void feed(std::span<const std::byte> bytes);
  // The next good payload, or nothing until more bytes are fed.
  std::optional<std::string> next();
  // Bytes held of a frame that is not complete yet; 0 between frames. Valid after `next` returned nothing.
  std::size_t pending() const { return buffer_.size() - start_; }
  // Gives the incomplete frame up: the search goes on behind its magic. `next` may then find good frames
  // behind a damaged length.
  void give_up();
  // Tells the decoder that no more bytes will come: an incomplete frame at the end is counted as skipped.
  // `next` may then still find good frames behind a damaged length.
  void finish();
  const Stats& stats() const { return stats_; }

 private:
  // Negative once overdrawn, by at most one frame.
  static constexpr std::int64_t kCheckPurse = 16 * std::int64_t{kMaxFramePayload};

  std::span<const std::byte> unread() const { return std::span(buffer_).subspan(start_); }
  bool find_magic();
  bool check(std::span<const std::byte> frame);
  void skip(std::size_t bytes);
  void consume(std::size_t bytes);
  void compact();
  void account_sequence(std::uint32_t sequence);

  std::vector<std::byte> buffer_;
  std::size_t start_ = 0;  // first unread byte of buffer_
  bool in_sync_ = true;
  bool finished_ = false;
  std::uint32_t expected_ = 0;
  std::int64_t purse_ = kCheckPurse;
  Stats stats_;
};

}  // namespace ktstr
