#include "host/snapshot/snapshot_eviction.h"

#include <algorithm>

#include "host/snapshot/snapshot.h"
#include "host/snapshot/snapshot_folder.h"
#include "host/snapshot/snapshot_manifest.h"

namespace ktstr {
namespace {

struct Candidate {
  SnapshotFolder folder;
  std::int64_t used_ns = 0;
  std::uint64_t bytes = 0;
  bool keep = false;
};

}  // namespace

std::vector<std::string> evict(const std::string& root, std::uint64_t limit, const std::string& keep) {
  std::vector<std::string> evicted;
  std::vector<Candidate> candidates;
  std::uint64_t total = 0;
  const auto names = names_in(root, "");
  if (!names) return evicted;
  for (const std::string& name : *names) {
    if (!is_digest(name)) continue;
    Candidate one;
    std::string ignored;
    const auto state = SnapshotFolder::open(root + "/" + name, one.folder, ignored);
    if (!state || *state != SnapshotFolder::State::kOpen) continue;
    one.used_ns = last_used_ns(one.folder);
    one.bytes = one.folder.allocated();
    one.keep = name == keep;
    total += one.bytes;
    candidates.push_back(std::move(one));
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.used_ns < b.used_ns; });
  for (const Candidate& one : candidates) {
    if (total <= limit) break;
    // What has no lock is no snapshot, and nobody can be using it.
    if (one.keep || (one.folder.lock && !one.folder.take(FolderLock::kExclusive))) continue;
    const auto aside = put_aside(root, one.folder.path);
    if (!aside) continue;
    evicted.push_back(*aside);
    total -= one.bytes;
  }
  return evicted;
}

}  // namespace ktstr
