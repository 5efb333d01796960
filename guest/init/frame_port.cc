#include "guest/init/frame_port.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "guest/init/crash_reporter.h"

namespace ktstr::guest {
namespace {

// Small frames share a write up to this size: what a virtio port takes at once.
constexpr std::size_t kMaxWrite = 32768;

}  // namespace

FramePort::FramePort(std::unique_ptr<FrameTransport> transport, Bounds bounds)
    : transport_(std::move(transport)), bounds_(bounds) {}

void FramePort::send(ktstr::v1::Frame frame) {
  const Kind kind = frame.has_output()      ? Kind::kOutput
                    : frame.has_heartbeat() ? Kind::kHeartbeat
                                            : Kind::kResult;
  enqueue(frame, kind);
  flush();
}

void FramePort::enqueue(ktstr::v1::Frame& frame, Kind kind) {
  frame.set_guest_ns(static_cast<std::uint64_t>(monotonic_now().count()));
  std::uint64_t output_bytes = 0;
  if (kind == Kind::kOutput) {
    ktstr::v1::Output& output = *frame.mutable_output();
    output.set_dropped(output.dropped() + output_dropped_);
    output_dropped_ = 0;
    output_bytes = output.data().size() + output.dropped();
  }
  const std::size_t size = frame.ByteSizeLong();
  if (size > kMaxFramePayload) {
    if (kind == Kind::kOutput) output_dropped_ += output_bytes;
    if (kind == Kind::kResult) ++results_dropped_;
    ktstr::v1::Frame warning;
    warning.mutable_note()->set_level(ktstr::v1::Note::WARNING);
    warning.mutable_note()->set_text("a frame of " + std::to_string(size) +
                                     " bytes is too large for the wire and was left out");
    enqueue(warning, Kind::kResult);
    return;
  }
  if (!make_room(kind, size)) {
    if (kind == Kind::kOutput) output_dropped_ += output_bytes;
    if (kind == Kind::kResult) ++results_dropped_;
    return;
  }
  queue_.push_back({.kind = kind, .payload = frame.SerializeAsString(), .output_bytes = output_bytes});
  queued_bytes_ += queue_.back().payload.size();
}

bool FramePort::make_room(Kind kind, std::size_t bytes) {
  if (queued_bytes() + bytes <= bounds_.soft_bytes) return true;
  if (kind != Kind::kResult) return false;
  drop_newest(Kind::kOutput, bytes);
  drop_newest(Kind::kHeartbeat, bytes);
  return queued_bytes() + bytes <= bounds_.hard_bytes;
}

// Drops queued frames of `kind`, newest first, until `bytes` fit below the soft bound.
void FramePort::drop_newest(Kind kind, std::size_t bytes) {
  for (std::size_t i = queue_.size(); i > 0 && queued_bytes() + bytes > bounds_.soft_bytes; --i) {
    const auto item = queue_.begin() + static_cast<std::ptrdiff_t>(i - 1);
    if (item->kind != kind) continue;
    queued_bytes_ -= item->payload.size();
    output_dropped_ += item->output_bytes;
    queue_.erase(item);
  }
}

// Encodes the next frames into current_; several small ones share a write. False when there is nothing.
bool FramePort::fill() {
  current_.clear();
  written_ = 0;
  while (
      !queue_.empty() &&
      (current_.empty() || current_.size() + kFrameHeaderSize + queue_.front().payload.size() <= kMaxWrite)) {
    const Item item = std::move(queue_.front());
    queue_.pop_front();
    queued_bytes_ -= item.payload.size();
    current_ += encoder_.encode(item.payload);
  }
  set_crash_sequence(static_cast<std::uint32_t>(encoder_.count()));
  return !current_.empty();
}

void FramePort::flush() {
  while (true) {
    if (written_ == current_.size() && !fill()) return;
    const ssize_t written = transport_->write(std::span(current_).subspan(written_));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // full, or nobody listens: the loop tries again
    written_ += static_cast<std::size_t>(written);
  }
}

bool FramePort::drain(std::chrono::nanoseconds limit) {
  const MonotonicTime deadline = monotonic_now() + limit;
  flush();
  while (wants_write()) {
    if (!transport_->wait_writable(deadline)) return false;
    flush();
  }
  return true;
}

void FramePort::send_last(ktstr::v1::Frame frame, std::chrono::nanoseconds limit) {
  if (!drain(limit)) return;
  // A blocking write waits until the host has taken the buffer; only with room in the ring, or it would wait
  // without end for a dead one. It does not make a power-off safe: lifecycle.cc waits for the host after it.
  if (!transport_->wait_writable(monotonic_now() + limit)) return;
  transport_->set_blocking(true);
  enqueue(frame, Kind::kResult);
  flush();
  transport_->set_blocking(false);
}

void FramePort::restart() {
  queue_.clear();
  queued_bytes_ = 0;
  output_dropped_ = 0;
  results_dropped_ = 0;
  if (written_ == 0) current_.clear();
  encoder_ = FrameEncoder();
  set_crash_sequence(0);
}

FramePort::ReadResult FramePort::read() {
  std::array<std::byte, 65536> buffer;
  const ssize_t count = transport_->read(buffer);
  if (count > 0) {
    decoder_.feed(std::span(buffer).first(static_cast<std::size_t>(count)));
    return ReadResult::kData;
  }
  // port_fops_read: 0 when the host's end is not open.
  if (count == 0) return ReadResult::kHangup;
  return errno == EAGAIN || errno == EINTR ? ReadResult::kNothing : ReadResult::kHangup;
}

}  // namespace ktstr::guest
