// FramePort: PID 1's end of the frame stream.
//
// The port never makes PID 1 wait while it serves a scenario: frames are queued here and written as far as
// the kernel takes them. A scheduler that floods its output must not cost results, so the queue has an order
// of sacrifice: when it holds `soft_bytes`, output frames go, newest first (what is missing is then one gap,
// and the next output frame says how long it is), then heartbeats. Results are kept up to `hard_bytes`, where
// something is badly wrong with the host.
//
// What carries the bytes is a FrameTransport.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "common/frame_codec.h"
#include "common/unique_fd.h"
#include "guest/init/frame_transport.h"
#include "guest/scenario/supervisor.h"
#include "proto/frames.pb.h"

namespace ktstr::guest {

class FramePort {
 public:
  struct Bounds {
    std::size_t soft_bytes = std::size_t{8} << 20;
    std::size_t hard_bytes = std::size_t{64} << 20;
  };
  enum class ReadResult {
    kData,     // bytes came; ask next_payload
    kNothing,  // nothing to read now
    kHangup,   // the host's end is closed (it may open again)
  };

  explicit FramePort(std::unique_ptr<FrameTransport> transport) : FramePort(std::move(transport), Bounds()) {}
  FramePort(std::unique_ptr<FrameTransport> transport, Bounds bounds);
  // `fd` is an open port (or a socket).
  explicit FramePort(UniqueFd fd) : FramePort(std::move(fd), Bounds()) {}
  FramePort(UniqueFd fd, Bounds bounds) : FramePort(std::make_unique<PortTransport>(std::move(fd)), bounds) {}

  // Queues the frame with guest_ns = now, and writes what can be written. A frame that is too large for the
  // wire (kMaxFramePayload) is replaced by a warning.
  void send(ktstr::v1::Frame frame);
  // Writes as much as the kernel takes.
  void flush();
  // True while something waits to be written.
  bool wants_write() const { return !queue_.empty() || written_ < current_.size(); }
  // Bytes that wait to be written.
  std::size_t queued_bytes() const { return queued_bytes_ + (current_.size() - written_); }
  // True when there is more queued than `soft_bytes`: the caller should give the host time.
  bool congested() const { return queued_bytes() > bounds_.soft_bytes; }
  // Waits up to `limit` until nothing is queued. False when time ran out.
  bool drain(std::chrono::nanoseconds limit);
  // Sends everything, then `frame`, and returns when the host has taken it, or after about `limit`.
  void send_last(ktstr::v1::Frame frame, std::chrono::nanoseconds limit);

  ReadResult read();
  // The next payload the host sent.
  std::optional<std::string> next_payload() { return decoder_.next(); }
  const FrameDecoder::Stats& received() const { return decoder_.stats(); }

  // Begins a new stream: the next frame has the number 0, and what waited to be written is forgotten, but for
  // the rest of a frame that has begun.
  void restart();

  // As of FrameTransport.
  int fd() const { return transport_->fd(); }
  bool one_way() const { return transport_->one_way(); }
  // Frames put on the wire so far.
  std::uint64_t frames_sent() const { return encoder_.count(); }
  // Frames other than output and heartbeats that were lost because even `hard_bytes` were queued, or that
  // were too large.
  std::uint64_t results_dropped() const { return results_dropped_; }
  // Bytes of output that no frame has accounted for yet.
  std::uint64_t output_dropped() const { return output_dropped_; }

 private:
  enum class Kind { kResult, kOutput, kHeartbeat };
  struct Item {
    Kind kind = Kind::kResult;
    std::string payload;
    std::uint64_t output_bytes = 0;  // bytes of scheduler output it stands for, dropped ones included
  };

  bool make_room(Kind kind, std::size_t bytes);
  void drop_newest(Kind kind, std::size_t bytes);
  void enqueue(ktstr::v1::Frame& frame, Kind kind);
  bool fill();

  std::unique_ptr<FrameTransport> transport_;
  Bounds bounds_;
  FrameEncoder encoder_;
  FrameDecoder decoder_;
  std::deque<Item> queue_;
  std::size_t queued_bytes_ = 0;
  std::string current_;      // encoded frames on their way out
  std::size_t written_ = 0;  // of current_
  std::uint64_t output_dropped_ = 0;
  std::uint64_t results_dropped_ = 0;
};

}  // namespace ktstr::guest
