// Folders of the snapshot cache: how they are found, locked, and taken away.
//
//   <cache>/snapshots/
//     lock             held for moments, by whoever gives a folder its name or takes it away
//     <key>/           a complete snapshot: manifest ram state use lock
//     .new-<key>/      one that is being made: the same, without a manifest until the very end
//     .old-<...>/      one that is being removed
//
// Each folder has its own `lock`, a flock(2) that ends with the process that holds it, however that ends:
// shared by whoever uses a snapshot, exclusive by whoever makes one or removes it. So a folder that can be
// locked exclusively belongs to nobody: .new-* and .old-* ones are then remains of a process that was killed.
//
// A name can be given to another folder between opening a path and locking what was found there. Therefore a
// lock counts only if the path still leads to the locked file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

inline constexpr const char* kManifestFile = "manifest";
inline constexpr const char* kRamFile = "ram";
inline constexpr const char* kStateFile = "state";
inline constexpr const char* kUseFile = "use";
inline constexpr const char* kLockFile = "lock";

enum class FolderLock { kShared, kExclusive };

// An open folder.
struct SnapshotFolder {
  std::string path;
  UniqueFd folder;
  UniqueFd lock;  // of its lock file; empty: there is none

  enum class State {
    kOpen,
    kAbsent,
    kForeign,  // no folder, or somebody else's
  };

  // `reason`: what is wrong with a foreign one. Error kHost when it cannot be said.
  static Expected<State> open(std::string path, SnapshotFolder& opened, std::string& reason);
  // False: others hold it. For a shared lock it waits as long as somebody may hold it who only looks. The
  // lock ends with `lock`.
  bool take(FolderLock kind) const;
  // Whether the path still leads here.
  bool still_there() const;
  // The same folder, whatever its name is by now.
  bool same_as(const SnapshotFolder& other) const;
  // Opens a regular file of ours in it, for reading.
  Expected<UniqueFd> open_file(const char* name, std::uint64_t& size) const;
  // Blocks of all its files, in bytes.
  std::uint64_t allocated() const;
};

// Makes a file in a folder, whole or not at all, in place of what is there.
Expected<> store_file(const SnapshotFolder& folder, const char* name, std::string_view contents,
                      unsigned mode);

// The folder of all snapshots. Made when needed, with its parents; it is the user's alone, because guest
// memory may hold anything.
Expected<> make_cache_folder(const std::string& root);

// Holds <root>/lock exclusively until it is reset. Error kHost: the folder cannot be written, or another
// process holds it for seconds.
Expected<UniqueFd> lock_cache(const std::string& root);

// Names in `root` that begin with `prefix`, sorted; an absent root has none.
Expected<std::vector<std::string>> names_in(const std::string& root, std::string_view prefix);

// Renames a folder, whatever it is, to an .old-* name, by which it can then be removed without a lock on the
// cache.
Expected<std::string> put_aside(const std::string& root, const std::string& path);
void remove_folder(const std::string& path);

// Removes .new-* and .old-* folders that belong to no living process. With the cache locked.
void sweep(const std::string& root);

}  // namespace ktstr
