#include "host/run/file_sender.h"

#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace ktstr {
namespace {

ktstr::v1::Frame announcement(const InitramfsEntry& entry) {
  ktstr::v1::Frame frame;
  ktstr::v1::File& file = *frame.mutable_file();
  file.set_path(entry.guest_path);
  file.set_mode(entry.mode);
  switch (entry.type) {
    case InitramfsEntryType::kDirectory:
      file.set_kind(ktstr::v1::File::FOLDER);
      break;
    case InitramfsEntryType::kSymlink:
      file.set_kind(ktstr::v1::File::SYMLINK);
      file.set_target(entry.link_target);
      break;
    default:
      file.set_kind(ktstr::v1::File::REGULAR);
      file.set_size(entry.size);
  }
  return frame;
}

Expected<std::string> read_piece(int fd, std::uint64_t offset, std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t done = 0; done < size;) {
    const ssize_t count = ::pread(fd, bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return fail_errno(ErrorCode::kHost, "cannot read a file for the guest");
    done += static_cast<std::size_t>(count);
  }
  return bytes;
}

// What zstd makes no shorter goes as it is.
void pack(std::string piece, ktstr::v1::FileData& data) {
  constexpr int kFastest = 1;
  std::string packed(::ZSTD_compressBound(piece.size()), '\0');
  const std::size_t size =
      ::ZSTD_compress(packed.data(), packed.size(), piece.data(), piece.size(), kFastest);
  if (::ZSTD_isError(size) != 0 || size >= piece.size()) {
    data.set_data(std::move(piece));
    return;
  }
  packed.resize(size);
  data.set_inflated(static_cast<std::uint32_t>(piece.size()));
  data.set_data(std::move(packed));
}

}  // namespace

Expected<void> FileSender::pump() {
  while (!done() && sent_ - taken_ < window_) {
    if (auto sent = send_next(); !sent) return sent;
  }
  return {};
}

void FileSender::acknowledge(std::uint64_t bytes) {
  if (bytes <= sent_) taken_ = std::max(taken_, bytes);
}

Expected<void> FileSender::send_next() {
  const FileBundle::File& file = files_.files[next_];
  const std::uint64_t size = file.entry.type == InitramfsEntryType::kFile ? file.entry.size : 0;
  ktstr::v1::Frame frame;
  if (!announced_) {
    announced_ = true;
    frame = announcement(file.entry);
  } else {
    auto piece =
        read_piece(files_.memfd.get(), file.offset + at_, std::min<std::uint64_t>(kChunk, size - at_));
    if (!piece) return std::unexpected(std::move(piece.error()));
    at_ += piece->size();
    sent_ += piece->size();
    pack(std::move(*piece), *frame.mutable_file_data());
  }
  if (at_ == size) {
    ++next_;
    announced_ = false;
    at_ = 0;
  }
  return send_(frame);
}

}  // namespace ktstr
