#include "host/report/dump/dump_sink.h"

#include <unistd.h>

namespace ktstr {

DumpSink::Write DumpSink::to_fd(int fd) {
  return [fd](std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = ::write(fd, text.data(), text.size());
      if (written < 0) {
        if (errno == EINTR) continue;
        return errno;
      }
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    return 0;
  };
}

DumpSink::Write DumpSink::to_string(std::string& text) {
  return [&text](std::string_view piece) {
    text.append(piece);
    return 0;
  };
}

void DumpSink::flush() {
  if (error_ == 0 && !buffer_.empty()) error_ = write_(buffer_);
  buffer_.clear();
}

}  // namespace ktstr
