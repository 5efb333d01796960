// The frame decoder against a much simpler one, on streams that the input composes of good frames, headers
// that lie, and raw bytes, cut into pieces of any size.
#include <span>
#include <string>
#include <vector>

#include "common/frame_codec.h"
#include "tests/fuzz/fuzz_input.h"

using ktstr::FrameDecoder;
using ktstr::FrameEncoder;
using ktstr::fuzz::check;

namespace {

std::string le32(std::uint32_t value) {
  std::string text;
  for (int i = 0; i < 4; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

// The input is a list of instructions; without it the fuzzer would have to guess checksums.
std::string compose(ktstr::fuzz::FuzzInput& input) {
  std::string stream;
  std::uint64_t sequence = 0;
  while (!input.empty()) {
    switch (input.number(1) % 5) {
      case 0:
        stream += FrameEncoder(sequence++).encode(input.take(input.number(1)));
        break;
      case 1:
        sequence = input.number(4);
        break;
      case 2:
        stream += le32(ktstr::kFrameMagic) + le32(static_cast<std::uint32_t>(input.number(3)));
        break;
      case 3:
        stream += input.take(input.number(1));
        break;
      default:  // damages one of the last bytes
        if (const auto back = input.number(1) + 1; back <= stream.size()) {
          char& byte = stream[stream.size() - back];
          byte = static_cast<char>(byte ^ static_cast<char>(input.number(1)));
        }
        break;
    }
  }
  return stream;
}

// At every byte: a whole good frame, or nothing.
std::vector<std::string> decode_simply(std::string_view stream) {
  std::vector<std::string> payloads;
  for (std::size_t at = 0; at + ktstr::kFrameHeaderSize <= stream.size();) {
    const std::string_view rest = stream.substr(at);
    const auto word = [&](std::size_t offset) {
      std::uint32_t value = 0;
      for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(rest[offset + i]);
      return value;
    };
    const std::size_t length = word(4);
    ++at;
    if (word(0) != ktstr::kFrameMagic || length > ktstr::kMaxFramePayload) continue;
    if (length > rest.size() - ktstr::kFrameHeaderSize) continue;
    const std::string covered =
        std::string(rest.substr(4, 4)) + std::string(rest.substr(12, length + ktstr::kFrameHeaderSize - 12));
    if (ktstr::crc32c_detail::table(std::as_bytes(std::span(covered)), 0) != word(8)) continue;
    payloads.emplace_back(rest.substr(ktstr::kFrameHeaderSize, length));
    at += ktstr::kFrameHeaderSize + length - 1;
  }
  return payloads;
}

struct Decoded {
  std::vector<std::string> payloads;
  FrameDecoder::Stats stats;
};

Decoded decode(std::string_view stream, std::size_t chunk) {
  FrameDecoder decoder;
  Decoded decoded;
  const auto drain = [&] {
    while (auto payload = decoder.next()) decoded.payloads.push_back(std::move(*payload));
  };
  while (!stream.empty()) {
    const std::string_view piece = stream.substr(0, chunk);
    decoder.feed(std::as_bytes(std::span(piece)));
    drain();
    check(decoder.pending() <= ktstr::kFrameHeaderSize + ktstr::kMaxFramePayload, "memory is bounded");
    stream.remove_prefix(piece.size());
  }
  decoder.finish();
  drain();
  decoded.stats = decoder.stats();
  return decoded;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ktstr::fuzz::FuzzInput input(data, size);
  const std::size_t chunk = input.number(1) + 1;
  const std::string stream = compose(input);

  const Decoded whole = decode(stream, stream.size() + 1);
  const Decoded cut = decode(stream, chunk);
  check(cut.payloads == whole.payloads && cut.stats == whole.stats, "how a stream is cut changes nothing");
  check(whole.payloads == decode_simply(stream), "the simple decoder finds the same frames");

  const FrameDecoder::Stats& stats = whole.stats;
  std::size_t good = 0;
  for (const std::string& payload : whole.payloads) good += ktstr::kFrameHeaderSize + payload.size();
  check(stats.bytes == stream.size() && stats.frames == whole.payloads.size(), "counts are right");
  check(good + stats.skipped_bytes == stream.size(), "every byte is accounted for");
  check((stats.resyncs == 0) == (stats.skipped_bytes == 0), "a skip is a resynchronisation");
  check(stats.lost <= stats.frames * ktstr::kMaxSequenceGap && stats.breaks <= stats.frames,
        "losses are plausible");
  return 0;
}
