// A FramePort with somebody at its other end.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "common/frame_codec.h"
#include "common/unique_fd.h"
#include "proto/frames.pb.h"

namespace ktstr::guest::test {

// The host's end of a frame port.
class HostEnd {
 public:
  HostEnd() {
    std::array<int, 2> fds{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) != 0) ::abort();
    ours_.reset(fds[0]);
    theirs_.reset(fds[1]);
  }

  // The guest's end; given out once.
  UniqueFd take_guest_fd() { return std::move(theirs_); }

  // All frames that have come by now.
  std::vector<v1::Frame> receive() {
    std::array<std::byte, 65536> buffer;
    ssize_t count = 0;
    while ((count = ::read(ours_.get(), buffer.data(), buffer.size())) > 0) {
      decoder_.feed(std::span(buffer).first(static_cast<std::size_t>(count)));
    }
    std::vector<v1::Frame> frames;
    while (const auto payload = decoder_.next()) {
      frames.emplace_back();
      if (!frames.back().ParseFromString(*payload)) ::abort();
    }
    return frames;
  }

  void send(const v1::Frame& frame) { send_payload(frame.SerializeAsString()); }
  void send_payload(const std::string& payload) {
    const std::string bytes = encoder_.encode(payload);
    if (::write(ours_.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) ::abort();
  }
  void close() { ours_.reset(); }
  const FrameDecoder::Stats& stats() const { return decoder_.stats(); }

 private:
  UniqueFd ours_;
  UniqueFd theirs_;
  FrameDecoder decoder_;
  FrameEncoder encoder_;
};

inline v1::Frame output_frame(std::size_t bytes, char fill = 'o') {
  v1::Frame frame;
  frame.mutable_output()->set_stream(v1::Output::SCHEDULER);
  frame.mutable_output()->set_data(std::string(bytes, fill));
  return frame;
}

inline v1::Frame note_frame(std::string text) {
  v1::Frame frame;
  frame.mutable_note()->set_text(std::move(text));
  return frame;
}

}  // namespace ktstr::guest::test
