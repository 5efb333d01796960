// What is kept of a program's output when there is too much of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace ktstr::guest {

// Passes the first `budget` bytes of a stream on; of what comes later it keeps the last `tail` bytes, because
// a scheduler's last words are the ones that matter.
class OutputBudget {
 public:
  static constexpr std::size_t kDefaultBudget = std::size_t{4} << 20;
  static constexpr std::size_t kDefaultTail = std::size_t{64} << 10;

  explicit OutputBudget(std::size_t budget = kDefaultBudget, std::size_t tail = kDefaultTail)
      : budget_(budget), tail_limit_(tail) {}

  // The part of `data` that is to be passed on now; may be empty.
  std::string_view take(std::string_view data);
  // What was held back: the end of the stream, and how many bytes before it are lost. Resets both.
  struct Rest {
    std::string data;
    std::uint64_t dropped = 0;
  };
  Rest take_rest();

 private:
  std::size_t budget_;
  std::size_t tail_limit_;
  std::string tail_;
  std::uint64_t dropped_ = 0;  // bytes that left tail_ at its front
};

// The last lines of a stream, as text that is fit for a message: without terminal escape sequences and
// carriage returns, control characters and bytes that are not ASCII as '?', long lines cut.
class LineTail {
 public:
  static constexpr std::size_t kMaxLine = 1000;

  explicit LineTail(std::size_t lines) : limit_(lines) {}

  void add(std::string_view data);
  // The last complete lines and the unfinished one, oldest first; empty lines are left out.
  std::vector<std::string> lines() const;
  // The same as one text, the last `count` lines joined by newlines.
  std::string text(std::size_t count) const;

 private:
  enum class Escape { kNone, kStart, kSequence };
  void finish_line();

  std::size_t limit_;
  std::deque<std::string> lines_;
  std::string current_;
  Escape escape_ = Escape::kNone;
};

}  // namespace ktstr::guest
