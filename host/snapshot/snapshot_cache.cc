#include "host/snapshot/snapshot_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "common/cache_folder.h"
#include "common/quote.h"
#include "host/snapshot/snapshot_eviction.h"
#include "host/snapshot/snapshot_folder.h"
#include "host/snapshot/snapshot_manifest.h"

namespace ktstr {
namespace {

using State = SnapshotFolder::State;

// As people name it.
std::string short_key(const std::string& key) {
  return key.substr(0, 8);
}

// Times as a run's record has them, from whatever a file says.
std::string printable_time(const std::string& text) {
  const bool plain = text.find_first_not_of("0123456789-:TZ") == std::string::npos;
  return plain && !text.empty() ? text : "at an unknown time";
}

}  // namespace

std::string SnapshotCache::default_root() {
  return (cache_folder() / "snapshots").string();
}

Expected<std::vector<std::string>> SnapshotCache::keys() const {
  auto names = names_in(root_, "");
  if (names) std::erase_if(*names, [](const std::string& name) { return !is_digest(name); });
  return names;
}

Expected<SnapshotCache::Found> SnapshotCache::find(const std::string& key) const {
  return find(key, SnapshotTrust::kNotes);
}

Expected<SnapshotCache::Found> SnapshotCache::find(const std::string& key, SnapshotTrust trust) const {
  SnapshotFolder folder;
  std::string foreign;
  auto state = SnapshotFolder::open(root_ + "/" + key, folder, foreign);
  if (!state) return std::unexpected(std::move(state.error()));
  Found found;
  if (*state == State::kAbsent) return found;
  if (*state == State::kForeign) {
    found.thrown_away = throw_away(key, folder, foreign);
    return found;
  }
  if (!folder.lock) {
    found.thrown_away = throw_away(key, folder, "its lock file is missing");
    return found;
  }
  // Held exclusively for longer than a glance: somebody is removing it. Or it has been removed in between.
  if (!folder.take(FolderLock::kShared) || !folder.still_there()) return found;
  // A second description of the folder, for the case that the first one is given up with the damaged
  // snapshot.
  SnapshotFolder again;
  again.path = folder.path;
  again.folder.reset(::dup(folder.folder.get()));
  auto snapshot = open_snapshot(std::move(folder), key, trust);
  if (snapshot) {
    found.snapshot = std::move(*snapshot);
  } else if (snapshot.error().code() == ErrorCode::kUsage) {
    found.thrown_away = throw_away(key, again, snapshot.error().to_string());
  } else {
    return propagate(std::move(snapshot.error()), fmt::format("opening the snapshot {}", short_key(key)));
  }
  return found;
}

// Others may have the damaged one open as well: they keep their files, and only the name goes.
std::string SnapshotCache::throw_away(const std::string& key, const SnapshotFolder& folder,
                                      const std::string& why) const {
  std::string what = fmt::format("the snapshot {} was thrown away: {}", short_key(key), why);
  const auto kept = [&](const Error& error) {
    return fmt::format("the snapshot {} is of no use: {}; and it cannot be removed: {}", short_key(key), why,
                       error.to_string());
  };
  const auto locked = lock_cache(root_);
  if (!locked) return kept(locked.error());
  // Another process may have thrown it away and made a good one since.
  if (folder.folder && !folder.still_there()) return what;
  const auto aside = put_aside(root_, root_ + "/" + key);
  if (!aside) return aside.error().errno_value() == ENOENT ? what : kept(aside.error());
  remove_folder(*aside);
  return what;
}

Expected<SnapshotCache::Begun> SnapshotCache::begin(const SnapshotInputs& inputs) const {
  if (auto made = make_cache_folder(root_); !made) return std::unexpected(std::move(made.error()));
  const auto locked = lock_cache(root_);
  if (!locked) return std::unexpected(locked.error());
  sweep(root_);
  for (const std::string& folder : evict(root_, limit_, "")) remove_folder(folder);

  const std::string key = snapshot_key(inputs);
  Begun begun;
  SnapshotFolder other;
  std::string ignored;
  auto state = SnapshotFolder::open(root_ + "/" + key, other, ignored);
  if (state && *state != State::kAbsent) {
    begun.reason = fmt::format("another process has made the snapshot {} meanwhile", short_key(key));
    return begun;
  }
  if (state) state = SnapshotFolder::open(fmt::format("{}/.new-{}", root_, key), other, ignored);
  if (!state) return std::unexpected(std::move(state.error()));
  if (*state != State::kAbsent) {
    begun.reason = fmt::format("{} is making the snapshot {}", maker_of(other), short_key(key));
    return begun;
  }
  auto writer = SnapshotWriter::create(root_, limit_, inputs);
  if (!writer) return std::unexpected(std::move(writer.error()));
  begun.writer.emplace(std::move(*writer));
  return begun;
}

std::optional<SnapshotCache::Nearest> SnapshotCache::nearest(const SnapshotInputs& inputs) const {
  const auto entries = list();
  if (!entries) return std::nullopt;
  const auto wanted = named_inputs(inputs);
  std::optional<Nearest> best;
  for (const Entry& entry : *entries) {
    if (!entry.manifest) continue;
    auto names = differences(wanted, inputs_of(*entry.manifest));
    if (best && best->differences.size() <= names.size()) continue;
    best = Nearest{entry.key, printable_time(entry.manifest->made_at()), std::move(names)};
  }
  return best;
}

std::string SnapshotCache::why_none(const SnapshotInputs& inputs) const {
  const auto near = nearest(inputs);
  if (!near) return fmt::format("there is no snapshot in {}", quote(root_, 300));
  if (near->differences.empty())
    return fmt::format("the snapshot {} fits, but it cannot be used", short_key(near->key));
  return fmt::format("no snapshot fits; the nearest one, {} made {}, differs in: {}", short_key(near->key),
                     near->made_at, list_names(near->differences));
}

Expected<std::vector<SnapshotCache::Entry>> SnapshotCache::list() const {
  const auto names = names_in(root_, "");
  if (!names) return std::unexpected(names.error());
  std::vector<Entry> entries;
  constexpr std::string_view kNew = ".new-";
  for (const std::string& name : *names) {
    Entry entry;
    entry.being_made = name.starts_with(kNew);
    entry.key = entry.being_made ? name.substr(kNew.size()) : name;
    if (!is_digest(entry.key)) continue;
    SnapshotFolder folder;
    const auto state = SnapshotFolder::open(root_ + "/" + name, folder, entry.problem);
    if (state && *state == State::kAbsent) continue;
    if (!state) entry.problem = state.error().to_string();
    if (folder.folder) {
      entry.allocated = folder.allocated();
      entry.last_used_ns = last_used_ns(folder);
      entry.in_use = folder.lock && !folder.take(FolderLock::kExclusive);
      // What is left of a killed process is no snapshot, and the next begin() removes it.
      if (entry.being_made && !entry.in_use) continue;
      if (entry.being_made) entry.maker = maker_of(folder);
    }
    if (entry.problem.empty() && !entry.being_made) {
      auto manifest = read_manifest(folder);
      if (manifest && manifest->key() == entry.key) {
        entry.manifest = std::move(*manifest);
      } else {
        entry.problem = manifest ? "it is the snapshot of other inputs" : manifest.error().to_string();
      }
    }
    // Removed while it was looked at.
    if (!entry.problem.empty() && folder.folder && !folder.still_there()) continue;
    entries.push_back(std::move(entry));
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.last_used_ns > b.last_used_ns; });
  return entries;
}

Expected<std::vector<SnapshotCache::Verified>> SnapshotCache::verify() const {
  const auto all = keys();
  if (!all) return std::unexpected(all.error());
  std::vector<Verified> verified;
  for (const std::string& key : *all) {
    auto found = find(key, SnapshotTrust::kNothing);
    if (found && !found->snapshot && found->thrown_away.empty()) continue;  // removed meanwhile
    verified.push_back(
        {key, found && found->snapshot, found ? found->thrown_away : found.error().to_string()});
  }
  return verified;
}

Expected<SnapshotCache::Cleared> SnapshotCache::clear(const std::vector<std::string>& wanted) const {
  auto all = keys();
  if (!all) return std::unexpected(std::move(all.error()));
  Cleared cleared;
  for (const std::string& one : wanted) {
    const bool long_enough = one.size() >= kShortestPrefix;
    if (!long_enough ||
        std::none_of(all->begin(), all->end(), [&](const auto& key) { return key.starts_with(one); }))
      return fail(ErrorCode::kUsage, fmt::format("there is no snapshot {}; at least {} digits of one that "
                                                 "`ktstr-vm cache list` shows would be right",
                                                 quote(one), kShortestPrefix));
  }
  if (::access(root_.c_str(), F_OK) != 0 && errno == ENOENT) return cleared;
  const auto locked = lock_cache(root_);
  if (!locked) return std::unexpected(locked.error());
  if (wanted.empty()) sweep(root_);
  for (const std::string& key : *all) {
    const auto is_wanted = [&](const std::string& one) { return key.starts_with(one); };
    if (!wanted.empty() && std::none_of(wanted.begin(), wanted.end(), is_wanted)) continue;
    SnapshotFolder folder;
    std::string foreign;
    const auto state = SnapshotFolder::open(root_ + "/" + key, folder, foreign);
    if (state && *state == State::kAbsent) continue;
    if (folder.lock && !folder.take(FolderLock::kExclusive)) {
      cleared.in_use.push_back(key);
      continue;
    }
    const std::uint64_t bytes = folder.folder ? folder.allocated() : 0;
    const auto aside = put_aside(root_, root_ + "/" + key);
    if (!aside) return std::unexpected(aside.error());
    remove_folder(*aside);
    cleared.removed.push_back(key);
    cleared.bytes += bytes;
  }
  return cleared;
}

}  // namespace ktstr
