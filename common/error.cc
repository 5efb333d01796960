#include "common/error.h"

#include <cerrno>
#include <cstring>

namespace ktstr {
namespace {

// strerror_r of glibc (the _GNU_SOURCE flavour) is thread-safe, strerror is not.
std::string errno_text(int errno_value) {
  char buffer[128];
  return strerror_r(errno_value, buffer, sizeof buffer);
}

}  // namespace

Error Error::from_errno(ErrorCode code, std::string message, int errno_value) {
  Error error(code, std::move(message) + ": " + errno_text(errno_value));
  error.errno_ = errno_value;
  return error;
}

Error&& Error::while_doing(std::string what) && {
  context_.push_back(std::move(what));
  return std::move(*this);
}

Error&& Error::with_detail(std::string detail) && {
  detail_ = std::move(detail);
  return std::move(*this);
}

Error&& Error::with_code(ErrorCode code) && {
  code_ = code;
  return std::move(*this);
}

std::string Error::to_string() const {
  std::string text = message_;
  for (const std::string& what : context_) text += " (while " + what + ")";
  return text;
}

std::unexpected<Error> fail_errno(ErrorCode code, std::string message) {
  const int errno_value = errno;
  return std::unexpected(Error::from_errno(code, std::move(message), errno_value));
}

}  // namespace ktstr
