// Snapshot: one that is open, locked against removal, and known to be whole.
//
// All of it is verified when it is opened, with one exception: reading some 200 MB of RAM costs 40 ms and
// more, so that is done only when the file is not the one that was verified last (common/file_stamp.h). `use`
// in the snapshot's folder remembers which one that was, and by its own time when the snapshot was used last.
#pragma once

#include <string>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/snapshot/snapshot_folder.h"
#include "proto/snapshot.pb.h"

namespace ktstr {

struct Snapshot {
  UniqueFd ram;    // guest RAM, read-only; holes are zeros
  UniqueFd state;  // the machine's state, read-only
  v1::SnapshotManifest manifest;
  SnapshotFolder folder;  // with the shared lock; as long as it lives, nobody removes the snapshot
};

enum class SnapshotTrust {
  kNotes,    // RAM that was verified once and has not been touched since is whole
  kNothing,  // everything is read again
};

// Opens what is in `folder`, which the caller has locked. Errors: kUsage, the snapshot is torn, damaged, of
// another version, or not that of `key`, and of no use to anybody; kHost, that could not be found out.
Expected<Snapshot> open_snapshot(SnapshotFolder folder, const std::string& key, SnapshotTrust trust);

// The manifest alone, and nothing of the files. Errors as above.
Expected<v1::SnapshotManifest> read_manifest(const SnapshotFolder& folder);

// Remembers that the RAM in `ram` has that checksum, and that the snapshot was used now. Not being able to is
// no error.
void note_verified(const SnapshotFolder& folder, int ram, const std::string& checksum);

// The time it was used last, ns since the epoch; 0: unknown.
std::int64_t last_used_ns(const SnapshotFolder& folder);

// XXH3-128 of `state`, as the manifest has it. Errors as of Xxh3::hex_of_file().
Expected<std::string> state_checksum(int fd, std::uint64_t size);

}  // namespace ktstr
