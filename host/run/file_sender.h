// FileSender: the files that the initramfs does not hold, over the frame port (proto/frames.proto, File).
//
// The port holds a bounded number of bytes and does not say how many wait in it. So no more than a window is
// on its way: the guest acknowledges what it has taken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "common/error.h"
#include "host/boot/initramfs.h"
#include "proto/frames.pb.h"

namespace ktstr {

class FileSender {
 public:
  static constexpr std::uint64_t kDefaultWindow = std::uint64_t{8} << 20;
  static constexpr std::size_t kChunk = std::size_t{256} << 10;

  using Send = std::function<Expected<void>(const ktstr::v1::Frame&)>;

  // `files` must outlive this.
  FileSender(const FileBundle& files, Send send, std::uint64_t window = kDefaultWindow)
      : files_(files), send_(std::move(send)), window_(window) {}

  // Sends what the window allows. Errors: those of `send`, or kHost when the contents cannot be read.
  Expected<void> pump();
  // The guest has taken so many bytes in all; what makes no sense is ignored.
  void acknowledge(std::uint64_t bytes);
  // Everything is on its way.
  bool done() const { return next_ == files_.files.size(); }

 private:
  Expected<void> send_next();

  const FileBundle& files_;
  Send send_;
  std::uint64_t window_;
  std::size_t next_ = 0;    // file that is being sent
  bool announced_ = false;  // it
  std::uint64_t at_ = 0;    // bytes of it that were sent
  std::uint64_t sent_ = 0;  // bytes of all files
  std::uint64_t taken_ = 0;
};

}  // namespace ktstr
