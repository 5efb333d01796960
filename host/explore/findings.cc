#include "host/explore/findings.h"

#include <algorithm>

namespace ktstr {

bool Findings::add(const SeedRecord& record) {
  if (!done_.insert(record.seed).second || !record.failed()) return false;
  ++failures_;
  const auto [at, first] = groups_.try_emplace(record.signature);
  Group& group = at->second.group;
  if (first) {
    at->second.order = groups_.size();
    group.signature = record.signature;
    group.verdict = record.verdict;
  }
  ++group.count;
  if (group.seeds.size() < kSeedsPerGroup) group.seeds.push_back(record.seed);
  if (!record.folder.empty() && group.kept.size() < kKeptPerGroup) group.kept.push_back(record);
  return first;
}

bool Findings::wants_folder(std::string_view signature) const {
  const auto at = groups_.find(signature);
  return at == groups_.end() || at->second.group.kept.size() < kKeptPerGroup;
}

std::vector<const Findings::Group*> Findings::groups() const {
  std::vector<const Numbered*> sorted;
  sorted.reserve(groups_.size());
  for (const auto& entry : groups_) sorted.push_back(&entry.second);
  std::sort(sorted.begin(), sorted.end(), [](const Numbered* a, const Numbered* b) {
    return a->group.count != b->group.count ? a->group.count > b->group.count : a->order < b->order;
  });
  std::vector<const Group*> groups;
  groups.reserve(sorted.size());
  for (const Numbered* numbered : sorted) groups.push_back(&numbered->group);
  return groups;
}

}  // namespace ktstr
