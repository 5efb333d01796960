// Helpers of the frame codec's tests: a stream as a string, and what a decoder makes of it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/frame_codec.h"

namespace ktstr::test {

inline void feed(FrameDecoder& decoder, std::string_view bytes) {
  decoder.feed(std::as_bytes(std::span(bytes)));
}

inline std::vector<std::string> drain(FrameDecoder& decoder) {
  std::vector<std::string> payloads;
  while (auto payload = decoder.next()) payloads.push_back(std::move(*payload));
  return payloads;
}

struct Decoded {
  std::vector<std::string> payloads;
  FrameDecoder::Stats stats;
};

// Decodes a whole stream that was cut into pieces of `chunk` bytes.
inline Decoded decode(std::string_view stream, std::size_t chunk = std::string_view::npos) {
  FrameDecoder decoder;
  Decoded decoded;
  const auto take = [&] {
    for (auto& payload : drain(decoder)) decoded.payloads.push_back(std::move(payload));
  };
  while (!stream.empty()) {
    const std::string_view piece = stream.substr(0, chunk);
    feed(decoder, piece);
    take();
    stream.remove_prefix(piece.size());
  }
  decoder.finish();
  take();
  decoded.stats = decoder.stats();
  return decoded;
}

inline std::string le32(std::uint32_t value) {
  std::string text;
  for (int i = 0; i < 4; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

// A header that claims `length` bytes; its checksum is wrong.
inline std::string bad_header(std::uint32_t length) {
  return le32(kFrameMagic) + le32(length) + le32(0xdeadbeef) + le32(0);
}

}  // namespace ktstr::test
