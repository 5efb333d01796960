// Cloning: where the guest of a run comes from, and what is kept of it for later ones (docs/snapshots.md).
//
// With a scheduler, one with it attached is looked for first, then one that waits for its plan. When there is
// neither the run boots, and its guest is saved at both points. A clone is not saved: the emulator cannot do
// that. So a run with a scheduler that finds only the guest that waits for its plan goes on from there; but
// the second run with the same scheduler boots once more and keeps it attached. A scheduler that is rebuilt
// for each run costs no snapshot each time, and one that is used again is soon attached at once.
//
// Nothing here fails a run but --clone always.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/machine/machine.h"
#include "host/run/prepare.h"
#include "host/run/run_request.h"
#include "host/snapshot/snapshot_cache.h"
#include "proto/result.pb.h"

namespace ktstr {

class Cloning {
 public:
  // Decides. `machine` is one that would boot `prepared`. Errors: kUsage, --clone always for a deterministic
  // run; kHost, --clone always and no snapshot fits: which input differs.
  static Expected<Cloning> decide(const RunRequest& request, const Prepared& prepared,
                                  const Machine& machine);

  // What matters of the run besides the inputs.
  struct Wish {
    bool always = false;  // --clone always
    bool scheduler = false;
    bool kaslr = false;
  };
  // The same for a run of which these are known.
  static Expected<Cloning> decide(const Wish& wish, SnapshotInputs inputs, SnapshotCache cache);

  // The guest goes on from a snapshot.
  bool is_clone() const { return snapshot_.has_value(); }
  SnapshotPoint point() const { return point_; }
  const ktstr::v1::GuestFacts& facts() const { return snapshot_->manifest.facts(); }
  // For BootSpec.
  Expected<SnapshotFiles> files() const;
  // The snapshot is of no use, or a later attempt is to boot: from now on this run boots and keeps nothing.
  // `damaged`: nobody else shall have it either.
  void give_up(const std::string& why, bool damaged);

  // Whether a guest that has booted is to be saved there.
  bool keeps(SnapshotPoint point) const;
  // What a snapshot says of the guest besides its inputs.
  struct Guest {
    ktstr::v1::GuestFacts facts;
    std::uint64_t monotonic_ns = 0;  // its clock
    std::string run_id;
  };
  // Stops the guest, saves it, and lets it go on. Once for each point. An error: it does not go on.
  Expected<void> save(SnapshotPoint point, Machine& machine, const Guest& guest);
  // How long guests have stood still for it, host time.
  std::chrono::nanoseconds stood_still() const { return stood_still_; }
  const ktstr::v1::CloneRecord& record() const { return record_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  Cloning(const Wish& wish, SnapshotInputs inputs, SnapshotCache cache)
      : cache_(std::move(cache)), wish_(wish), inputs_(std::move(inputs)) {}
  Expected<void> choose();
  bool look_up(SnapshotPoint point);
  void describe_clone();
  SnapshotInputs inputs_at(SnapshotPoint point) const;
  static Expected<std::string> write_stopped(Machine& machine, const SnapshotWriter& writer);
  ktstr::v1::SnapshotManifest describe_guest(const Guest& guest) const;
  void warn(const std::string& text);

  SnapshotCache cache_;
  Wish wish_;
  SnapshotInputs inputs_;
  std::optional<Snapshot> snapshot_;
  SnapshotPoint point_ = SnapshotPoint::kHello;
  std::string useless_;  // why the cache cannot be read
  bool keeps_hello_ = false;
  bool keeps_attached_ = false;
  std::chrono::nanoseconds stood_still_{};
  ktstr::v1::CloneRecord record_;
  std::vector<std::string> warnings_;
};

// Keys that runs have asked for, in a small file: whether one is asked for again.
class AskedKeys {
 public:
  explicit AskedKeys(std::string path) : path_(std::move(path)) {}
  // True when the key has been asked for before; remembers it. A file that cannot be used knows no key.
  bool ask(const std::string& key) const;

 private:
  std::string path_;
};

}  // namespace ktstr
