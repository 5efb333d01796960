// DumpSink: where rendered text goes, piece by piece.
//
// A dump of 10,000 tasks is tens of megabytes of JSON; it is written while it is made, so that memory stays
// small however many tasks there are. The first error of the writer is kept and everything after it is
// dropped: renderers need not check each line.
#pragma once

#include <cerrno>
#include <cstddef>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace ktstr {

class DumpSink {
 public:
  // Takes a piece of text; returns 0, or the errno of the failure.
  using Write = std::function<int(std::string_view)>;
  // Pieces have about this many bytes.
  static constexpr std::size_t kPiece = std::size_t{64} << 10;

  explicit DumpSink(Write write) : write_(std::move(write)) { buffer_.reserve(kPiece + 4096); }
  DumpSink(const DumpSink&) = delete;
  DumpSink& operator=(const DumpSink&) = delete;

  // Writes to a file descriptor, which must outlive the sink.
  static Write to_fd(int fd);
  // Appends to a string, which must outlive the sink.
  static Write to_string(std::string& text);

  void put(char c) {
    buffer_.push_back(c);
    if (buffer_.size() >= kPiece) flush();
  }
  void put(std::string_view text) {
    buffer_.append(text);
    if (buffer_.size() >= kPiece) flush();
  }
  template <typename... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(buffer_), format, std::forward<Args>(args)...);
    if (buffer_.size() >= kPiece) flush();
  }

  // Writes what is left. Returns 0, or the errno of the first failure. Must be called; the destructor writes
  // nothing.
  int finish() {
    flush();
    return error_;
  }

 private:
  void flush();

  Write write_;
  std::string buffer_;
  int error_ = 0;
};

}  // namespace ktstr
