// SnapshotWriter: a snapshot that is being made, by this process alone.
#pragma once

#include <cstdint>
#include <string>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/snapshot/snapshot_folder.h"
#include "host/snapshot/snapshot_key.h"
#include "proto/snapshot.pb.h"

namespace ktstr {

// Unless commit() succeeds, the end of the writer leaves nothing behind; what a killed process leaves is
// removed by the next one that makes a snapshot.
class [[nodiscard]] SnapshotWriter {
 public:
  // Made by SnapshotCache::begin(): with the cache locked and no such folder there. Error kHost.
  static Expected<SnapshotWriter> create(const std::string& root, std::uint64_t limit,
                                         const SnapshotInputs& inputs);

  SnapshotWriter(SnapshotWriter&&) noexcept = default;
  SnapshotWriter& operator=(SnapshotWriter&&) = delete;
  ~SnapshotWriter();

  const std::string& key() const { return key_; }
  // Two empty files to be filled, by descriptor (for reading and writing) or, by another process, by path.
  int ram() const { return ram_.get(); }
  int state() const { return state_.get(); }
  std::string ram_path() const { return folder_.path + "/" + kRamFile; }
  std::string state_path() const { return folder_.path + "/" + kStateFile; }

  // Publishes the snapshot; afterwards it belongs to the cache, which may remove it, and others to make room
  // for it. `manifest` needs only what the caller knows about the guest: facts, kaslr, clocks, run_id.
  // `ram_checksum`: when the caller had it from writing (SparseContents::checksum); else RAM is read once
  // more. Error kHost: a file is empty or still open for writing somewhere, the disk is full, or the snapshot
  // is larger than all of the cache may be.
  Expected<> commit(v1::SnapshotManifest manifest, std::string ram_checksum = "");

 private:
  SnapshotWriter(std::string root, std::uint64_t limit, std::string key)
      : root_(std::move(root)), limit_(limit), key_(std::move(key)) {}
  Expected<> seal(const char* name, v1::SnapshotFile& file, std::string checksum);

  std::string root_;
  std::uint64_t limit_;
  std::string key_;
  v1::SnapshotManifest inputs_;
  SnapshotFolder folder_;  // with the exclusive lock; empty: published, or moved away
  UniqueFd ram_;
  UniqueFd state_;
};

// Who makes the snapshot in that folder: "process 1234", or "another process".
std::string maker_of(const SnapshotFolder& folder);

}  // namespace ktstr
