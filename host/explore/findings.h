// Findings: what the seeds that are done came to, counted and grouped.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace ktstr {

// One finished seed.
struct SeedRecord {
  std::uint64_t seed = 0;
  int exit_code = 0;           // of ktstr-vm run; 0: passed
  std::string verdict;         // "pass", "fail", ...
  std::string signature;       // Signature::line(); empty for a seed that passed
  std::string folder;          // of the kept run, relative to the exploration's folder; empty: not kept
  std::uint64_t guest_ns = 0;  // guest time of the last thing the run tells
  std::uint64_t wall_ms = 0;   // host time of the run

  bool failed() const { return exit_code != 0; }
  friend bool operator==(const SeedRecord&, const SeedRecord&) = default;
};

class Findings {
 public:
  // Runs of one group whose folders are kept.
  static constexpr std::size_t kKeptPerGroup = 3;
  // Seeds of one group that are remembered by number; the others are only counted.
  static constexpr std::size_t kSeedsPerGroup = 100;

  struct Group {
    std::string signature;
    std::string verdict;
    std::uint64_t count = 0;
    std::vector<std::uint64_t> seeds;  // the first kSeedsPerGroup, in the order they were done
    std::vector<SeedRecord> kept;      // those whose folder is kept
  };

  // True: it is the first failure of its group. A seed that is known already changes nothing.
  bool add(const SeedRecord& record);
  bool knows(std::uint64_t seed) const { return done_.contains(seed); }
  // Whether the folder of one more failure with this signature is worth keeping.
  bool wants_folder(std::string_view signature) const;

  std::uint64_t seeds() const { return done_.size(); }
  std::uint64_t failures() const { return failures_; }
  std::size_t group_count() const { return groups_.size(); }
  // The most frequent first; of two equally frequent ones the one that was found first.
  std::vector<const Group*> groups() const;

 private:
  struct Numbered {
    std::size_t order = 0;
    Group group;
  };
  std::unordered_set<std::uint64_t> done_;
  std::uint64_t failures_ = 0;
  std::map<std::string, Numbered, std::less<>> groups_;
};

}  // namespace ktstr
