// StatusLine: what a person sees while a run is under way, on standard error.
//
// On a terminal the last line is rewritten in place (phase, elapsed, what is waited for) and events scroll
// above it. Elsewhere only the events are printed, one plain line each, so a CI log stays readable.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>

namespace ktstr {

class StatusLine {
 public:
  // `out` stays the caller's. `live`: rewrite in place. The clock starts now.
  StatusLine(std::FILE* out, bool live) : out_(out), live_(live), start_(std::chrono::steady_clock::now()) {}
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  ~StatusLine() { clear(); }

  // True when `out` is a terminal that can rewrite a line (TERM is set and not "dumb").
  static bool is_live(std::FILE* out);

  // A line that stays.
  void event(const std::string& text);
  // The line that is rewritten; nothing happens when not live.
  void update(const std::string& text);
  // Removes the rewritten line.
  void clear();

 private:
  double elapsed() const;

  std::FILE* out_;
  bool live_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace ktstr
