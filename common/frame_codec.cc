#include "common/frame_codec.h"

#include <algorithm>
#include <array>

namespace ktstr {
namespace {

constexpr std::size_t kLengthOffset = 4;
constexpr std::size_t kCrcOffset = 8;
constexpr std::size_t kSequenceOffset = 12;

constexpr std::array<std::byte, 4> kMagicBytes = {std::byte{'K'}, std::byte{'T'}, std::byte{'S'},
                                                  std::byte{'1'}};

std::uint32_t load_le32(std::span<const std::byte> bytes, std::size_t offset) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value |= std::to_integer<std::uint32_t>(bytes[offset + i]) << (8 * i);
  return value;
}

void store_le32(std::string& bytes, std::size_t offset, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[offset + i] = static_cast<char>(value >> (8 * i) & 0xff);
}

// `frame` is a header and its whole payload.
std::uint32_t frame_crc(std::span<const std::byte> frame) {
  const std::uint32_t length_crc = crc32c(frame.subspan(kLengthOffset, 4));
  return crc32c(frame.subspan(kSequenceOffset), length_crc);
}

}  // namespace

std::string FrameEncoder::encode(std::string_view payload) {
  if (payload.size() > kMaxFramePayload) return {};
  std::string frame;
  frame.reserve(kFrameHeaderSize + payload.size());
  frame.resize(kFrameHeaderSize);
  frame += payload;
  store_le32(frame, 0, kFrameMagic);
  store_le32(frame, kLengthOffset, static_cast<std::uint32_t>(payload.size()));
  store_le32(frame, kSequenceOffset, static_cast<std::uint32_t>(count_));
  store_le32(frame, kCrcOffset, frame_crc(std::as_bytes(std::span(frame))));
  ++count_;
  return frame;
}

void FrameDecoder::feed(std::span<const std::byte> bytes) {
  stats_.bytes += bytes.size();
  if (finished_) {
    stats_.skipped_bytes += bytes.size();
    return;
  }
  compact();
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

std::optional<std::string> FrameDecoder::next() {
  while (find_magic()) {
    const auto bytes = unread();
    if (bytes.size() >= kFrameHeaderSize) {
      const std::size_t length = load_le32(bytes, kLengthOffset);
      if (length > kMaxFramePayload) {
        skip(1);
        continue;
      }
      const std::size_t size = kFrameHeaderSize + length;
      if (bytes.size() >= size) {
        const auto frame = bytes.first(size);
        if (!check(frame)) {
          skip(1);
          continue;
        }
        account_sequence(load_le32(frame, kSequenceOffset));
        std::string payload(length, '\0');
        std::ranges::copy(std::as_bytes(std::span(frame)).subspan(kFrameHeaderSize),
                          std::as_writable_bytes(std::span(payload)).begin());
        consume(size);
        ++stats_.frames;
        in_sync_ = true;
        return payload;
      }
    }
    if (!finished_) return std::nullopt;
    skip(1);
  }
  return std::nullopt;
}

// Moves to the next byte that begins a magic, or what may become one. False when more bytes are needed to
// know, or none are left.
bool FrameDecoder::find_magic() {
  const auto bytes = unread();
  const auto found = std::search(bytes.begin(), bytes.end(), kMagicBytes.begin(), kMagicBytes.end());
  if (found != bytes.end()) {
    skip(static_cast<std::size_t>(found - bytes.begin()));
    return true;
  }
  // The end may be the beginning of a magic.
  std::size_t keep = finished_ ? 0 : std::min(bytes.size(), kMagicBytes.size() - 1);
  while (!std::ranges::equal(bytes.last(keep), std::span(kMagicBytes).first(keep))) --keep;
  skip(bytes.size() - keep);
  return false;
}

bool FrameDecoder::check(std::span<const std::byte> frame) {
  if (purse_ <= 0) return false;
  stats_.checked_bytes += frame.size();
  if (frame_crc(frame) == load_le32(frame, kCrcOffset)) return true;
  purse_ -= static_cast<std::int64_t>(frame.size());
  return false;
}

void FrameDecoder::give_up() {
  if (pending() > 0) skip(1);
}

void FrameDecoder::finish() {
  finished_ = true;
}

void FrameDecoder::skip(std::size_t bytes) {
  if (bytes == 0) return;
  if (in_sync_) ++stats_.resyncs;
  in_sync_ = false;
  stats_.skipped_bytes += bytes;
  consume(bytes);
}

void FrameDecoder::consume(std::size_t bytes) {
  start_ += bytes;
  purse_ = std::min(purse_ + static_cast<std::int64_t>(bytes), kCheckPurse);
}

// Makes room at the front. Moves bytes only when at least as many were consumed since the last move, so that
// the cost for each byte of the stream is constant; does not keep the room of a large frame for ever.
void FrameDecoder::compact() {
  constexpr std::size_t kKeepCapacity = std::size_t{256} << 10;
  if (start_ == 0 || start_ < buffer_.size() - start_) return;
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(start_));
  start_ = 0;
  if (buffer_.capacity() > kKeepCapacity && buffer_.size() < kKeepCapacity / 2) buffer_.shrink_to_fit();
}

void FrameDecoder::account_sequence(std::uint32_t sequence) {
  const std::uint32_t gap = sequence - expected_;
  if (gap <= kMaxSequenceGap) {
    stats_.lost += gap;
  } else {
    ++stats_.breaks;
  }
  expected_ = sequence + 1;
}

}  // namespace ktstr
