#include "host/run/console_scanner.h"

#include <algorithm>
#include <array>

namespace ktstr {
namespace {

struct Pattern {
  std::string_view text;
  ConsoleFinding::Kind kind;
};

// Messages of kernel/panic.c, arch/x86/kernel/{dumpstack,traps}.c, arch/x86/mm/fault.c, kernel/watchdog*.c,
// kernel/rcu/tree_stall.h, kernel/hung_task.c. Order matters: the first that is found in a line wins.
constexpr auto kPatterns = std::to_array<Pattern>({
    {"Kernel panic - not syncing", ConsoleFinding::Kind::kPanic},
    {"BUG: soft lockup", ConsoleFinding::Kind::kLockup},
    {"hard LOCKUP", ConsoleFinding::Kind::kLockup},
    {"self-detected stall on CPU", ConsoleFinding::Kind::kLockup},
    {"detected stalls on CPUs/tasks", ConsoleFinding::Kind::kLockup},
    {"blocked for more than", ConsoleFinding::Kind::kLockup},
    {"BUG: unable to handle", ConsoleFinding::Kind::kOops},
    {"BUG: kernel NULL pointer dereference", ConsoleFinding::Kind::kOops},
    {"kernel BUG at", ConsoleFinding::Kind::kOops},
    {"general protection fault", ConsoleFinding::Kind::kOops},
    {"Oops: ", ConsoleFinding::Kind::kOops},
    {"WARNING: CPU:", ConsoleFinding::Kind::kWarning},
    {"WARNING: possible", ConsoleFinding::Kind::kWarning},
});

// "[   12.345678] text" -> "text"; also with the caller id that CONFIG_PRINTK_CALLER adds.
std::string_view without_timestamp(std::string_view line) {
  for (int i = 0; i < 2 && line.starts_with('['); ++i) {
    const std::size_t end = line.find(']');
    if (end > 24) break;  // npos among them
    line.remove_prefix(end + 1);
    while (line.starts_with(' ')) line.remove_prefix(1);
  }
  return line;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\x1b') {
      // CSI sequence: ESC [ parameters final-byte.
      if (i + 1 < text.size() && text[i + 1] == '[') {
        i += 2;
        while (i < text.size() && (text[i] < 0x40 || text[i] > 0x7e)) ++i;
      }
    } else if (c == '\t' || (c >= 32 && c < 127)) {
      clean += c;
    } else if (c != '\r') {
      clean += '?';
    }
  }
  return clean;
}

void ConsoleScanner::feed(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    const char c = static_cast<char>(byte);
    if (c == '\n') {
      take_line(partial_);
      partial_.clear();
      dropping_ = false;
    } else if (partial_.size() < kMaxLine) {
      partial_ += c;
    } else {
      dropping_ = true;
    }
  }
}

void ConsoleScanner::finish() {
  if (partial_.empty()) return;
  take_line(partial_);
  partial_.clear();
}

void ConsoleScanner::take_line(std::string_view raw) {
  const std::string clean = printable(raw);
  if (clean.empty()) return;
  ++line_count_;
  if (line_receiver_) line_receiver_(clean);
  tail_.push_back(clean);
  if (tail_.size() > kTailLines) tail_.pop_front();
  classify(std::string(without_timestamp(clean)));
}

void ConsoleScanner::classify(const std::string& text) {
  if (text.starts_with("sched_ext:") && sched_ext_lines_.size() < kMaxWarnings)
    sched_ext_lines_.push_back(text);
  look_at_code(text);
  const auto* found = std::find_if(kPatterns.begin(), kPatterns.end(), [&](const Pattern& pattern) {
    return text.find(pattern.text) != std::string::npos;
  });
  if (found == kPatterns.end()) return;
  switch (found->kind) {
    case ConsoleFinding::Kind::kPanic:
      if (!panic_) panic_ = ConsoleFinding{found->kind, text};
      break;
    case ConsoleFinding::Kind::kOops:
      if (!oops_) {
        oops_ = ConsoleFinding{found->kind, text};
        int3_oops_ = text.find("Oops: int3") != std::string::npos;
      }
      break;
    case ConsoleFinding::Kind::kLockup:
      if (!lockup_) lockup_ = ConsoleFinding{found->kind, text};
      break;
    case ConsoleFinding::Kind::kWarning:
      if (warnings_.size() < kMaxWarnings) warnings_.push_back(text);
      break;
  }
}

// "Code: 48 89 <cc> 00 ...": the byte in angle brackets is the one at rip; int3 is a trap, so rip is one past
// it.
void ConsoleScanner::look_at_code(std::string_view text) {
  if (!int3_oops_ || saw_code_ || !text.starts_with("Code: ")) return;
  const std::size_t mark = text.find('<');
  if (mark == std::string_view::npos || mark < 3) return;
  saw_code_ = true;
  code_has_int3_ = text.substr(mark + 1, 2) == "cc" || text.substr(mark - 3, 2) == "cc";
}

std::vector<std::string> ConsoleScanner::tail(std::size_t lines) const {
  const std::size_t count = std::min(lines, tail_.size());
  return {tail_.end() - static_cast<std::ptrdiff_t>(count), tail_.end()};
}

}  // namespace ktstr
