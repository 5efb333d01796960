// FileReceiver: files that come over the frame port, in place of the initramfs.
//
// A kept guest knows nothing of the run that it will serve, so what only that run needs (scheduler,
// libraries, included files) is sent when it goes on. Each file stands where the initramfs would have put it.
// Frames are checked like anything that came over a wire: a path outside, more bytes than were announced, or
// more than `limit` in all are refused. The first problem ends it: everything behind it is ignored, and the
// plan that needs these files is refused with it.
#pragma once

#include <cstdint>
#include <string>

#include "common/error.h"
#include "common/unique_fd.h"
#include "proto/frames.pb.h"

namespace ktstr::guest {

class FileReceiver {
 public:
  // Most bytes that one FileData may become.
  static constexpr std::size_t kMaxPiece = std::size_t{1} << 20;
  // As of host/boot/initramfs.h.
  static constexpr std::uint64_t kDefaultLimit = std::uint64_t{2} << 30;

  // Files go below `root`, "" for the root folder itself. `limit`: bytes of all files.
  explicit FileReceiver(std::string root = "", std::uint64_t limit = kDefaultLimit)
      : root_(std::move(root)), limit_(limit) {}

  void begin(const ktstr::v1::File& file);
  void data(const ktstr::v1::FileData& data);

  // Bytes of contents so far, unpacked, those that were ignored too.
  std::uint64_t received() const { return received_; }
  // What went wrong, "" when all that was announced has come and is in its place.
  std::string problem() const;
  // Forgets everything, as before the first file.
  void restart();

 private:
  Expected<> make(const ktstr::v1::File& file);
  Expected<> write(std::string_view bytes);
  Expected<std::string_view> inflate(const ktstr::v1::FileData& data);

  std::string root_;
  std::uint64_t limit_;
  std::uint64_t received_ = 0;
  std::uint64_t announced_ = 0;  // bytes of all files
  std::string problem_;
  std::string inflated_;    // the last piece that came packed
  std::string path_;        // of the file that is being written
  UniqueFd fd_;             // it
  std::uint64_t left_ = 0;  // what is still to come of it
};

// One sentence that says why no file may be put there; "" when it may.
std::string refuse_path(std::string_view path);

}  // namespace ktstr::guest
