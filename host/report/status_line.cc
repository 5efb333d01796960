#include "host/report/status_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

namespace ktstr {
namespace {

constexpr std::string_view kClearLine = "\r\033[K";
constexpr std::size_t kDefaultColumns = 80;

std::size_t columns(std::FILE* out) {
  struct winsize size = {};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultColumns;
  return size.ws_col;
}

}  // namespace

bool StatusLine::is_live(std::FILE* out) {
  const char* term = std::getenv("TERM");
  return ::isatty(::fileno(out)) != 0 && term != nullptr && std::string_view(term) != "dumb";
}

double StatusLine::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void StatusLine::event(const std::string& text) {
  clear();
  fmt::print(out_, "[{:6.1f} s] {}\n", elapsed(), text);
  std::fflush(out_);
}

void StatusLine::update(const std::string& text) {
  if (!live_) return;
  const std::string line = fmt::format("[{:6.1f} s] {}", elapsed(), text);
  // One column less than the width: a full line would wrap and could not be rewritten.
  fmt::print(out_, "{}{}", kClearLine, line.substr(0, columns(out_) - 1));
  std::fflush(out_);
  shown_ = true;
}

void StatusLine::clear() {
  if (!shown_) return;
  fmt::print(out_, "{}", kClearLine);
  std::fflush(out_);
  shown_ = false;
}

}  // namespace ktstr
