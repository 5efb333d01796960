#include "host/explore/signature.h"

#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

#include "common/crc32c.h"
#include "host/report/verdict_text.h"
#include "host/run/console_scanner.h"

namespace ktstr {
namespace {

// How much of a reason is looked at before it is generalised.
constexpr std::size_t kMaxInput = 1024;
// A console line that is longer than this holds no frame.
constexpr std::size_t kMaxLogLine = 512;
// A time stamp or a caller ends within so many bytes.
constexpr std::size_t kMaxBracket = 24;
// Lines below "Call Trace:" that are looked at: a deep trace of guesses ends somewhere.
constexpr std::size_t kMaxTraceLines = 64;
// An oops prints RIP, the code bytes and at most 20 lines of registers before its trace (show_regs()).
constexpr std::size_t kMaxRipDistance = 40;
// Kernel addresses have 16 digits, build ids 40; decimal numbers of that many digits are rare enough.
constexpr std::size_t kMinHexWord = 12;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool is_word(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_path(char c) {
  return is_word(c) || std::string_view("/.-+@:,=~%").find(c) != std::string_view::npos;
}

template <typename Predicate>
std::size_t run_length(std::string_view text, Predicate predicate) {
  const auto* const end = std::find_if_not(text.begin(), text.end(), predicate);
  return static_cast<std::size_t>(end - text.begin());
}

// "20261121T034500Z-1a2b3c", the name that RunFolder gives.
bool is_run_id(std::string_view name) {
  constexpr std::string_view kShape = "ddddddddTddddddZ-xxxxxx";
  if (name.size() != kShape.size()) return false;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const bool fits = kShape[i] == 'd'   ? is_digit(name[i])
                      : kShape[i] == 'x' ? is_hex(name[i])
                                         : name[i] == kShape[i];
    if (!fits) return false;
  }
  return true;
}

// Length of the part of the path at the beginning of `text` up to and with a run's folder; 0: there is none.
std::size_t run_path_length(std::string_view text) {
  const std::string_view path = text.substr(0, run_length(text, is_path));
  std::size_t found = 0;
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    if (is_run_id(path.substr(at, end - at))) found = end;
    at = end + 1;
  }
  return found;
}

// Length of one decimal number with fraction and unit; 0: none here. "5.001s", "12 ms", "3".
std::size_t number_length(std::string_view text) {
  std::size_t length = run_length(text, is_digit);
  if (length == 0) return 0;
  if (length + 1 < text.size() && text[length] == '.' && is_digit(text[length + 1])) {
    length += 1 + run_length(text.substr(length + 1), is_digit);
  }
  std::size_t unit_at = length;
  if (unit_at < text.size() && text[unit_at] == ' ') ++unit_at;
  const std::string_view rest = text.substr(unit_at);
  const std::string_view unit = rest.substr(0, run_length(rest, is_word));
  static constexpr std::array<std::string_view, 6> kUnits = {"ns", "us", "ms", "s", "m", "h"};
  if (std::find(kUnits.begin(), kUnits.end(), unit) != kUnits.end()) length = unit_at + unit.size();
  return length;
}

// Length of "0-3,8" or "1, 2": numbers joined by commas or dashes.
std::size_t number_list_length(std::string_view text) {
  std::size_t length = number_length(text);
  while (length != 0 && length < text.size() && (text[length] == ',' || text[length] == '-')) {
    std::size_t next = length + 1;
    if (text[length] == ',' && next < text.size() && text[next] == ' ') ++next;
    const std::size_t more = number_length(text.substr(next));
    if (more == 0) break;
    length = next + more;
  }
  return length;
}

// Replaces what stands at the beginning of `text`. Returns its length; 0: nothing to replace.
std::size_t replace_front(std::string_view text, bool at_word_start, std::string& out) {
  if (at_word_start) {
    if (const std::size_t length = run_path_length(text); length != 0) {
      out += "<run>";
      return length;
    }
    const std::size_t prefix = text.starts_with("0x") || text.starts_with("0X") ? 2 : 0;
    const std::size_t digits = run_length(text.substr(prefix), is_hex);
    const std::size_t length = prefix + digits;
    const bool whole_word = length == text.size() || !is_word(text[length]);
    if (prefix != 0 && digits != 0) {
      out += "<addr>";
      return length;
    }
    if (whole_word && digits >= kMinHexWord) {
      out += digits <= 16 ? "<addr>" : "<id>";
      return length;
    }
  }
  const std::size_t length = at_word_start ? number_list_length(text) : run_length(text, is_digit);
  if (length != 0) out += 'N';
  return length;
}

// Cuts time stamp and caller ("[   12.345678]", "[  T123]", "[    C0]") and blanks.
std::string_view without_prefix(std::string_view line) {
  while (true) {
    line.remove_prefix(run_length(line, [](char c) { return c == ' ' || c == '\t' || c == '\r'; }));
    if (!line.starts_with('[')) return line;
    const std::size_t close = line.find(']');
    if (close > kMaxBracket) return line;
    line.remove_prefix(close + 1);
  }
}

// Compilers make clones of a function; which ones differs from build to build.
std::string_view without_clone_suffix(std::string_view function) {
  for (const std::string_view suffix : {".isra.", ".constprop.", ".part.", ".cold", ".llvm."}) {
    function = function.substr(0, function.find(suffix));
  }
  return function;
}

// The function of "name+0x12/0x34 [module]" (sprint_symbol()); empty: the line is no frame.
std::string_view frame_function(std::string_view text) {
  const std::size_t length = run_length(text, [](char c) { return is_word(c) || c == '.' || c == '$'; });
  const std::string_view rest = text.substr(length);
  if (length == 0 || length > Signature::kMaxFunction || !rest.starts_with("+0x")) return {};
  const std::size_t offset = run_length(rest.substr(3), is_hex);
  if (offset == 0 || !rest.substr(3 + offset).starts_with("/0x")) return {};
  return without_clone_suffix(text.substr(0, length));
}

bool only_reports(std::string_view function) {
  static constexpr std::array<std::string_view, 12> kReporters = {
      "dump_stack", "dump_stack_lvl", "show_stack", "panic",          "vpanic",        "__warn",
      "report_bug", "handle_bug",     "oops_end",   "exc_invalid_op", "__warn_printk", "asm_exc_invalid_op"};
  return std::find(kReporters.begin(), kReporters.end(), function) != kReporters.end();
}

void add_frame(std::vector<std::string>& frames, std::string_view function) {
  if (function.empty() || only_reports(function) || frames.size() >= Signature::kMaxFrames) return;
  if (frames.empty() || frames.back() != function) frames.emplace_back(function);
}

// Hands out the lines of a log one after the other.
class Lines {
 public:
  explicit Lines(std::string_view text) : rest_(text) {}
  bool next(std::string_view& line) {
    if (rest_.empty()) return false;
    const std::size_t end = rest_.find('\n');
    line = rest_.substr(0, std::min(end, kMaxLogLine));
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    return true;
  }

 private:
  std::string_view rest_;
};

// "<TASK>", "</IRQ>": marks between the stacks of one trace.
bool is_stack_mark(std::string_view text) {
  return text.starts_with('<') && text.size() < 24;
}

// Adds the frames at the beginning of `lines`, to the first line that is none.
void take_frames(Lines& lines, std::vector<std::string>& frames) {
  std::string_view line;
  for (std::size_t i = 0; i < kMaxTraceLines && lines.next(line); ++i) {
    const std::string_view text = without_prefix(line);
    if (text.starts_with("? ") || is_stack_mark(text)) continue;
    const std::string_view function = frame_function(text);
    if (function.empty()) return;
    add_frame(frames, function);
    if (frames.size() == Signature::kMaxFrames) return;
  }
}

}  // namespace

std::string signature_hash(std::string_view line) {
  return fmt::format("{:08x}", crc32c(std::as_bytes(std::span(line.data(), line.size()))));
}

std::string Signature::line() const {
  std::string line = verdict;
  if (!kind.empty()) line += " " + kind;
  if (!text.empty()) line += ": " + text;
  if (!frames.empty()) line += fmt::format(" [{}]", fmt::join(frames, " < "));
  return line;
}

std::string Signature::hash() const {
  return signature_hash(line());
}

std::string generalise(std::string_view text) {
  text = text.substr(0, std::min(text.find('\n'), kMaxInput));
  const std::string clean = printable(text);
  std::string_view rest = clean;
  std::string out;
  bool at_word_start = true;
  while (!rest.empty() && out.size() < Signature::kMaxText) {
    if (const std::size_t length = replace_front(rest, at_word_start, out); length != 0) {
      rest.remove_prefix(length);
      at_word_start = false;
      continue;
    }
    at_word_start = !is_word(rest.front());
    out += rest.front();
    rest.remove_prefix(1);
  }
  if (out.size() > Signature::kMaxText) out.resize(Signature::kMaxText);
  while (out.ends_with(' ')) out.pop_back();
  return out;
}

std::vector<std::string> call_trace(std::string_view console) {
  Lines lines(console);
  std::string_view line;
  std::string_view rip;
  std::size_t rip_age = 0;
  while (lines.next(line)) {
    const std::string_view text = without_prefix(line);
    if (text.starts_with("RIP: 0010:")) {
      rip = frame_function(text.substr(10));
      rip_age = 0;
    } else if (text.starts_with("Call Trace:")) {
      std::vector<std::string> frames;
      if (rip_age <= kMaxRipDistance) add_frame(frames, rip);
      take_frames(lines, frames);
      return frames;
    }
    ++rip_age;
  }
  return {};
}

std::vector<std::string> exit_backtrace(std::string_view scheduler_log) {
  Lines lines(scheduler_log);
  std::string_view line;
  while (lines.next(line)) {
    if (!without_prefix(line).starts_with("Backtrace:")) continue;
    std::vector<std::string> frames;
    take_frames(lines, frames);
    return frames;
  }
  return {};
}

Signature make_signature(const ktstr::v1::RunResult& result, std::string_view console,
                         std::string_view scheduler_log) {
  Signature signature;
  signature.verdict = verdict_name(result.verdict());
  // A number that is no verdict of ours has no name.
  if (signature.verdict.empty()) signature.verdict = "unknown";
  if (result.reasons_size() > 0) {
    const std::string_view kind = result.reasons(0).kind();
    signature.kind = printable(kind.substr(0, Signature::kMaxKind));
    signature.text = generalise(result.reasons(0).text());
  }
  const bool scheduler_first = result.verdict() == ktstr::v1::SCHEDULER_DIED;
  signature.frames = scheduler_first ? exit_backtrace(scheduler_log) : call_trace(console);
  if (signature.frames.empty()) {
    signature.frames = scheduler_first ? call_trace(console) : exit_backtrace(scheduler_log);
  }
  return signature;
}

}  // namespace ktstr
