// SnapshotCache: guests at rest, kept so that a later run goes on where an earlier one has been
// (docs/snapshots.md).
//
// Any number of processes may use the folder at once. A snapshot gets its name when it is complete and is
// never written to again; whoever has it open keeps it from being removed. What is torn, damaged, foreign or
// of another version is thrown away when it is met. Files are not synced to disk: what a power failure has
// torn is found by its checksum.
//
// Nothing here stops a run. An error says that the cache is of no use now, and the caller boots.
//
// How the folder looks and what is locked when: snapshot_folder.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/snapshot/snapshot.h"
#include "host/snapshot/snapshot_key.h"
#include "host/snapshot/snapshot_writer.h"

namespace ktstr {

class SnapshotCache {
 public:
  // All snapshots together, bytes of blocks on disk.
  static constexpr std::uint64_t kDefaultLimit = std::uint64_t{4} << 30;

  // `root` is made when the first snapshot is.
  explicit SnapshotCache(std::string root = default_root(), std::uint64_t limit = kDefaultLimit)
      : root_(std::move(root)), limit_(limit) {}

  // <cache folder>/snapshots (common/cache_folder.h).
  static std::string default_root();
  const std::string& root() const { return root_; }
  std::uint64_t limit() const { return limit_; }

  struct Found {
    std::optional<Snapshot> snapshot;
    // One sentence about a snapshot that was there and is not any more; else empty.
    std::string thrown_away;
  };
  // The snapshot of a key, verified. Error kHost: the cache cannot be read.
  Expected<Found> find(const std::string& key) const;

  struct Begun {
    std::optional<SnapshotWriter> writer;
    // Without a writer: who is making it, or has made it meanwhile.
    std::string reason;
  };
  // Begins to make the snapshot of these inputs, which only one process does at a time. Also removes what
  // killed processes have left, and what is above the limit. Error kHost: the cache cannot be written.
  Expected<Begun> begin(const SnapshotInputs& inputs) const;

  struct Nearest {
    std::string key;
    std::string made_at;
    std::vector<std::string> differences;  // names; empty: it is the snapshot of these inputs
  };
  // The readable snapshot that differs in the fewest inputs, of those the one used last.
  std::optional<Nearest> nearest(const SnapshotInputs& inputs) const;
  // One sentence for a user who wanted a clone and gets none.
  std::string why_none(const SnapshotInputs& inputs) const;

  struct Entry {
    std::string key;
    std::uint64_t allocated = 0;    // bytes of blocks on disk
    std::int64_t last_used_ns = 0;  // since the epoch; 0: unknown
    bool in_use = false;
    bool being_made = false;  // then there is no manifest, and no problem either
    std::string maker;        // of one that is being made: "process 1234"
    std::optional<v1::SnapshotManifest> manifest;
    std::string problem;  // why there is no manifest
  };
  // Used last comes first. Files are not verified. Error kHost: the cache cannot be read.
  Expected<std::vector<Entry>> list() const;

  struct Verified {
    std::string key;
    bool whole = false;
    std::string problem;  // of one that is not: why it was thrown away, or could not be read
  };
  // Reads all of every complete snapshot, whatever was noted about it. Error kHost as above.
  Expected<std::vector<Verified>> verify() const;

  struct Cleared {
    std::vector<std::string> removed;  // keys
    std::uint64_t bytes = 0;
    std::vector<std::string> in_use;  // these stay
  };
  // Removes the snapshots whose keys begin with one of `keys`, or all of them and everything that killed
  // processes have left. Errors: kUsage, one of `keys` is too short or fits nothing; kHost, the cache cannot
  // be written.
  Expected<Cleared> clear(const std::vector<std::string>& keys) const;
  // Least length of the beginning of a key.
  static constexpr std::size_t kShortestPrefix = 4;

 private:
  Expected<Found> find(const std::string& key, SnapshotTrust trust) const;
  // The sentence for Found::thrown_away.
  std::string throw_away(const std::string& key, const SnapshotFolder& folder, const std::string& why) const;
  Expected<std::vector<std::string>> keys() const;

  std::string root_;
  std::uint64_t limit_;
};

}  // namespace ktstr
