// ConsoleScanner: reads the guest kernel's console line by line and recognises the messages that decide a
// run: panic, oops, lock-ups, sched_ext's own lines.
//
// Everything on a console is hostile input: lines are bounded, control characters are replaced, and a message
// is only an indication; the verdict also needs to fit what the machine and the frames say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ktstr {

// What a console line announced.
struct ConsoleFinding {
  enum class Kind {
    kPanic,    // "Kernel panic - not syncing: ..." (panic())
    kOops,     // "Oops: ...", "BUG: unable to handle ...", "general protection fault" (die())
    kLockup,   // soft lock-up, hard LOCKUP, RCU stall, hung task
    kWarning,  // "WARNING: CPU: ..."
  };
  Kind kind = Kind::kWarning;
  std::string line;  // cleaned text without time stamp
};

class ConsoleScanner {
 public:
  // Longest line that is looked at; the rest of a longer one is dropped.
  static constexpr std::size_t kMaxLine = 1024;

  // Who gets every cleaned line, with its time stamp; for --verbose.
  void set_line_receiver(std::function<void(const std::string&)> receiver) {
    line_receiver_ = std::move(receiver);
  }
  void feed(std::span<const std::byte> bytes);
  // Ends an unfinished last line.
  void finish();

  // The first panic, or nothing. A panic outranks an oops, an oops a lock-up.
  const std::optional<ConsoleFinding>& panic() const { return panic_; }
  const std::optional<ConsoleFinding>& oops() const { return oops_; }
  const std::optional<ConsoleFinding>& lockup() const { return lockup_; }
  // At most kMaxWarnings.
  const std::vector<std::string>& warnings() const { return warnings_; }
  // "sched_ext: BPF scheduler ... disabled (...)" and the reason lines that follow, at most kMaxWarnings.
  const std::vector<std::string>& sched_ext_lines() const { return sched_ext_lines_; }

  // True when the kernel died of an `int3` that is not in its code any more. sched_ext attach and detach flip
  // static keys, which patches running code through a temporary int3; an emulator that keeps a translated
  // block with that int3 takes a trap nobody asked for (platform-notes: QEMU 7.2 often, 10 rarely). The oops
  // prints the code around rip, and a real int3 would still be there as "cc".
  bool emulator_int3() const { return int3_oops_ && saw_code_ && !code_has_int3_; }

  // The last lines, oldest first, for messages about a silent guest.
  std::vector<std::string> tail(std::size_t lines) const;
  std::uint64_t lines() const { return line_count_; }

 private:
  static constexpr std::size_t kMaxWarnings = 64;
  static constexpr std::size_t kTailLines = 40;
  void take_line(std::string_view raw);
  void classify(const std::string& text);
  void look_at_code(std::string_view text);

  std::function<void(const std::string&)> line_receiver_;
  std::string partial_;
  bool dropping_ = false;
  std::uint64_t line_count_ = 0;
  std::optional<ConsoleFinding> panic_;
  std::optional<ConsoleFinding> oops_;
  std::optional<ConsoleFinding> lockup_;
  std::vector<std::string> warnings_;
  std::vector<std::string> sched_ext_lines_;
  std::deque<std::string> tail_;
  bool int3_oops_ = false;
  bool saw_code_ = false;
  bool code_has_int3_ = false;
};

// Control characters (but tab) and bytes above 126 replaced by '?', escape sequences removed.
std::string printable(std::string_view text);

}  // namespace ktstr
