#include "guest/init/output_keeper.h"

#include <algorithm>
#include <utility>

namespace ktstr::guest {

std::string_view OutputBudget::take(std::string_view data) {
  const std::string_view now = data.substr(0, std::min(data.size(), budget_));
  budget_ -= now.size();
  tail_ += data.substr(now.size());
  if (tail_.size() > tail_limit_) {
    const std::size_t excess = tail_.size() - tail_limit_;
    tail_.erase(0, excess);
    dropped_ += excess;
  }
  return now;
}

OutputBudget::Rest OutputBudget::take_rest() {
  return {.data = std::exchange(tail_, {}), .dropped = std::exchange(dropped_, 0)};
}

void LineTail::finish_line() {
  if (current_.empty()) return;
  lines_.push_back(std::exchange(current_, {}));
  if (lines_.size() > limit_) lines_.pop_front();
}

void LineTail::add(std::string_view data) {
  for (const char c : data) {
    // ECMA-48: ESC [ parameters final, where the final byte is @ to ~; other escapes are ESC and one byte.
    if (escape_ == Escape::kStart) {
      escape_ = c == '[' ? Escape::kSequence : Escape::kNone;
    } else if (escape_ == Escape::kSequence) {
      if (c >= '@' && c <= '~') escape_ = Escape::kNone;
    } else if (c == '\x1b') {
      escape_ = Escape::kStart;
    } else if (c == '\n') {
      finish_line();
    } else if (c != '\r' && current_.size() < kMaxLine) {
      current_ += c == '\t' ? ' ' : (c >= 0x20 && c < 0x7f) ? c : '?';
    }
  }
}

std::vector<std::string> LineTail::lines() const {
  std::vector<std::string> all(lines_.begin(), lines_.end());
  if (!current_.empty()) all.push_back(current_);
  return all;
}

std::string LineTail::text(std::size_t count) const {
  const std::vector<std::string> all = lines();
  std::string text;
  for (std::size_t i = all.size() - std::min(count, all.size()); i < all.size(); ++i) {
    text += (text.empty() ? "" : "\n") + all[i];
  }
  return text;
}

}  // namespace ktstr::guest
