// Errors are values. A function that can fail returns Expected<T>; the Error says what went wrong in words a
// user can act on, which exit code it deserves, and, where a system call was involved, its errno.
//
// Context is chained from the inside out: the innermost call makes the Error, every caller that knows more
// says what it was doing with `while_doing`. Rendered on one line: "cannot open '/x': No such file or
// directory (while packing the initramfs)". Guest-memory faults are not Errors (host/memory has its own
// type).
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ktstr {

// Why a run cannot go on; the numbers are the process's exit codes (docs/exit-codes.md). `proto/result.proto`
// has the same list as Verdict.
enum class ErrorCode {
  kUsage = 2,          // wrong usage, bad scenario file, missing input
  kKernelPanic = 3,    // guest kernel panic or oops
  kSchedulerDied = 4,  // the scheduler died
  kTimeout = 5,        // time-out or hang
  kNoBoot = 10,        // the kernel did not reach PID 1
  kKernelLacks = 11,   // the kernel lacks what the scenario needs
  kStartFailed = 12,   // scheduler or payload could not be started
  kHost = 20,          // host trouble: resources, permissions, disk
  kInconclusive = 21,  // too few samples, host too noisy
};

class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  // An error of a failed system call: "<message>: <strerror(errno_value)>".
  static Error from_errno(ErrorCode code, std::string message, int errno_value);

  ErrorCode code() const { return code_; }
  // errno of the failed system call, 0 when none was involved.
  int errno_value() const { return errno_; }
  // The innermost message, without context.
  const std::string& message() const { return message_; }
  // One line a person can act on, or several lines of detail (verifier output, a compiler-like excerpt); may
  // be empty.
  const std::string& detail() const { return detail_; }

  // Adds context: "while <what>". Returns *this for `return
  // std::unexpected(std::move(error).while_doing(...))`.
  Error&& while_doing(std::string what) &&;
  // Attaches multi-line detail, shown below the message.
  Error&& with_detail(std::string detail) &&;
  // Replaces the exit code, where a caller knows better what the failure means.
  Error&& with_code(ErrorCode code) &&;

  // Message and context on one line, without detail.
  std::string to_string() const;

 private:
  ErrorCode code_;
  int errno_ = 0;
  std::string message_;
  std::string detail_;
  std::vector<std::string> context_;
};

template <typename T = void>
using Expected = std::expected<T, Error>;

// Shorthand: `return fail(ErrorCode::kUsage, "...")`.
inline std::unexpected<Error> fail(ErrorCode code, std::string message) {
  return std::unexpected(Error(code, std::move(message)));
}
// Shorthand for a failed system call; reads errno, so call it before anything else can change it.
std::unexpected<Error> fail_errno(ErrorCode code, std::string message);
// Shorthand: propagates `error` with one more line of context.
inline std::unexpected<Error> propagate(Error&& error, std::string while_doing) {
  return std::unexpected(std::move(error).while_doing(std::move(while_doing)));
}

}  // namespace ktstr
