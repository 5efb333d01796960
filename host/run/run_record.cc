#include "host/run/run_record.h"

#include <array>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "common/frame_codec.h"

namespace ktstr {
namespace {

static_assert(std::endian::native == std::endian::little, "frames.bin is little-endian");

using Length = std::uint32_t;

std::string length_bytes(std::size_t size) {
  const auto length = static_cast<Length>(size);
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes;
}

// "Heartbeat at 3.210 s (guest time), 24 bytes".
std::string describe_frame(std::string_view payload) {
  ktstr::v1::Frame frame;
  if (!frame.ParseFromArray(payload.data(), static_cast<int>(payload.size())))
    return fmt::format("something that is no frame, {} bytes", payload.size());
  const auto* field = ktstr::v1::Frame::descriptor()->FindFieldByNumber(static_cast<int>(frame.body_case()));
  return fmt::format("{} at {:.9f} s of guest time, {} bytes", field != nullptr ? field->name() : "nothing",
                     static_cast<double>(frame.guest_ns()) / 1e9, payload.size());
}

}  // namespace

Expected<RecordedFrames> RecordedFrames::open(const std::string& path) {
  RecordedFrames recorded;
  auto file = Mapping::map_file(path.c_str());
  if (!file) return propagate(std::move(file.error()), "opening the recorded frames");
  recorded.file_ = std::move(*file);
  // All lengths are looked at once, so that comparing needs no error of its own.
  while (recorded.next()) {
  }
  if (recorded.offset_ != recorded.file_.size()) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} is damaged or cut off at byte {}", path, recorded.offset_));
  }
  recorded.offset_ = 0;
  return recorded;
}

std::optional<std::string_view> RecordedFrames::next() {
  const auto rest = file_.bytes().subspan(offset_);
  Length length = 0;
  if (rest.size() < sizeof length) return std::nullopt;
  std::memcpy(&length, rest.data(), sizeof length);
  if (length > kMaxFramePayload || length > rest.size() - sizeof length) return std::nullopt;
  offset_ += sizeof length + length;
  return std::string_view(reinterpret_cast<const char*>(rest.data()) + sizeof length, length);
}

void RecordedFrames::differ(std::string then, std::string now) {
  difference_ = Difference{index_, fmt::format("then {}; now {}", then, now)};
}

void RecordedFrames::compare(std::string_view payload) {
  if (difference_) return;
  const auto then = next();
  if (!then) {
    differ("the frames had ended", describe_frame(payload));
  } else if (*then != payload) {
    differ(describe_frame(*then), describe_frame(payload));
  } else {
    ++index_;
  }
}

void RecordedFrames::finish() {
  if (difference_) return;
  if (const auto then = next()) differ(describe_frame(*then), "the frames have ended");
}

void RunRecord::frame(std::string_view payload) {
  const std::string length = length_bytes(payload.size());
  frames_hash_.update(length);
  frames_hash_.update(payload);
  frames_file_.append(length);
  frames_file_.append(payload);
  ++frames_;
  if (earlier_ != nullptr) earlier_->compare(payload);
}

void RunRecord::console(std::span<const std::byte> bytes) {
  console_hash_.update(bytes);
  console_bytes_ += bytes.size();
}

void RunRecord::disturbed(const std::string& why) {
  if (disturbed_.empty()) disturbed_ = fmt::format("identical until frame {}: {}", frames_, why);
}

void RunRecord::describe(ktstr::v1::Determinism& determinism) const {
  determinism.set_frames(frames_);
  determinism.set_frames_xxh3(frames_hash_.hex());
  determinism.set_console_bytes(console_bytes_);
  determinism.set_console_xxh3(console_hash_.hex());
  determinism.set_identical_until(disturbed_);
}

}  // namespace ktstr
