// Signature: what makes two failures "the same" to somebody who looks for bugs.
//
// It is made of the verdict, the kind and the text of the first reason, and the topmost functions of a
// backtrace. What differs from run to run although the bug is one is taken out of the text: addresses,
// numbers with their units, build ids, folders of runs. All of it comes from a guest that may be corrupt, so
// every length and every count is bounded and nothing but printable ASCII gets through.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "proto/result.pb.h"

namespace ktstr {

struct Signature {
  static constexpr std::size_t kMaxKind = 64;
  static constexpr std::size_t kMaxText = 240;
  static constexpr std::size_t kMaxFrames = 3;
  static constexpr std::size_t kMaxFunction = 96;

  std::string verdict;              // "scheduler-died"
  std::string kind;                 // Reason.kind of the first reason; may be empty
  std::string text;                 // generalised text of that reason; may be empty
  std::vector<std::string> frames;  // function names, innermost first

  // "scheduler-died scheduler-exit: runnable task stall (N) [check_rq_for_timeouts < scx_watchdog_workfn]".
  std::string line() const;
  // 8 lower-case hexadecimal digits that depend on line() only.
  std::string hash() const;
  friend bool operator==(const Signature&, const Signature&) = default;
};

// The hash of a signature's line.
std::string signature_hash(std::string_view line);

// The first line of `text` without what changes from run to run: "<addr>" stands for hexadecimal addresses,
// "<id>" for build ids and hashes, "<run>" for the path of a run's folder, "N" for decimal numbers, lists and
// ranges of them, and amounts with a unit of time.
std::string generalise(std::string_view text);

// Function names of the first "Call Trace:" of a kernel console, innermost first, with the function of the
// "RIP:" line before it in front. Guesses of the unwinder ("? f+0x1/0x2") and the functions that only report
// (panic, dump_stack) are left out.
std::vector<std::string> call_trace(std::string_view console);

// Function names of the first "Backtrace:" of a scheduler's log: the kernel's stack at the exit, as the
// sched_ext user exit info prints it.
std::vector<std::string> exit_backtrace(std::string_view scheduler_log);

// `console` and `scheduler_log` are the beginnings of the run's logs; empty: there is none. A scheduler that
// died is told by its exit's backtrace first, everything else by the console's call trace.
Signature make_signature(const ktstr::v1::RunResult& result, std::string_view console,
                         std::string_view scheduler_log);

}  // namespace ktstr
