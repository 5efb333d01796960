#include "common/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/unique_fd.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxShownPath = 4096;

ssize_t read_retrying(int fd, char* buffer, std::size_t size) {
  ssize_t got = 0;
  do {
    got = ::read(fd, buffer, size);
  } while (got < 0 && errno == EINTR);
  return got;
}

}  // namespace

Expected<std::string> read_file(const std::string& path, std::size_t limit, ErrorCode code) {
  const std::string quoted = quote(path, kMaxShownPath);
  // O_NONBLOCK: opening a FIFO must not wait for its writer; it changes nothing for regular files.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return fail_errno(code, "cannot open " + quoted);
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(code, "cannot stat " + quoted);
  if (!S_ISREG(st.st_mode)) return fail(code, quoted + " is not a regular file");
  const auto too_large = [&] { return fail(code, fmt::format("{} has more than {} bytes", quoted, limit)); };
  // One byte more than allowed shows that there is more. Reads grow, because seq files of /proc give at most
  // a page or so at a time, whatever they are asked for.
  std::string text;
  std::size_t filled = 0;
  for (;;) {
    if (filled == text.size()) {
      const std::size_t step = std::max<std::size_t>(4096, filled);
      text.resize(filled + std::min(step, limit - filled + 1));
    }
    const ssize_t got = read_retrying(fd.get(), text.data() + filled, text.size() - filled);
    if (got < 0) return fail_errno(code, "cannot read " + quoted);
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    if (filled > limit) return too_large();
  }
  text.resize(filled);
  return text;
}

Expected<std::string> read_attribute(const std::string& path, ErrorCode code) {
  auto text = read_file(path, kMaxAttribute, code);
  if (text) text->resize(text->find_last_not_of(" \t\r\n") + 1);
  return text;
}

Expected<> write_attribute(const std::string& path, std::string_view text, ErrorCode code) {
  const std::string quoted = quote(path, kMaxShownPath);
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return fail_errno(code, "cannot open " + quoted + " for writing");
  ssize_t written = 0;
  do {
    written = ::write(fd.get(), text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  if (written < 0) return fail_errno(code, "cannot write " + quote(text) + " to " + quoted);
  if (static_cast<std::size_t>(written) != text.size()) {
    return fail(code, fmt::format("cannot write {} to {}: only {} of {} bytes were taken", quote(text),
                                  quoted, written, text.size()));
  }
  return {};
}

}  // namespace ktstr
