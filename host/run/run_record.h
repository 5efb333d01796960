// RunRecord: what came out of a deterministic guest, as a fingerprint and, frame by frame, as a file, so that
// a later run can be held against it.
//
// frames.bin of a run's folder: for each frame its payload behind the payload's length (32 bit,
// little-endian), in the order of arrival.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/mapping.h"
#include "common/xxh3.h"
#include "host/run/run_folder.h"
#include "proto/frames.pb.h"
#include "proto/result.pb.h"

namespace ktstr {

// The frames of an earlier run, to be compared with those of this one.
class RecordedFrames {
 public:
  // Where two runs first differ.
  struct Difference {
    std::uint64_t frame = 0;  // 0-based
    std::string text;         // what was there, what is there now, at which guest times
  };

  // Error kUsage when there is no such file, or it is damaged.
  static Expected<RecordedFrames> open(const std::string& path);

  // The next frame of this run. The first difference is kept; nothing is compared behind it.
  void compare(std::string_view payload);
  // This run has ended; frames that were recorded and did not come are a difference.
  void finish();
  const std::optional<Difference>& difference() const { return difference_; }
  std::uint64_t compared() const { return index_; }

 private:
  std::optional<std::string_view> next();
  void differ(std::string then, std::string now);

  Mapping file_;
  std::size_t offset_ = 0;
  std::uint64_t index_ = 0;
  std::optional<Difference> difference_;
};

class RunRecord {
 public:
  // `frames` and `earlier` may be nullptr.
  explicit RunRecord(BoundedLog frames, RecordedFrames* earlier = nullptr)
      : frames_file_(std::move(frames)), earlier_(earlier) {}

  void frame(std::string_view payload);
  void console(std::span<const std::byte> bytes);
  // From here on the run is no function of its inputs; the first reason counts.
  void disturbed(const std::string& why);
  // Fingerprints and counts.
  void describe(ktstr::v1::Determinism& determinism) const;

 private:
  BoundedLog frames_file_;
  RecordedFrames* earlier_ = nullptr;
  Xxh3 frames_hash_;
  Xxh3 console_hash_;
  std::uint64_t frames_ = 0;
  std::uint64_t console_bytes_ = 0;
  std::string disturbed_;
};

}  // namespace ktstr
