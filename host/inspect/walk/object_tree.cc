#include "host/inspect/walk/object_tree.h"

#include <utility>

#include <fmt/format.h>

#include "host/inspect/walk/kva_set.h"
#include "host/inspect/walk/list.h"

namespace ktstr {

ObjectTree walk_object_tree(KernelReader& reader, ReadBudget& budget, Kva root, const TreeOffsets& offsets,
                            std::uint64_t max_objects) {
  ObjectTree tree;
  if (max_objects == 0) return tree;
  KvaSet seen;
  seen.insert(root);
  tree.objects.push_back({.object = root});
  ListContents children;
  // The objects themselves are the queue of those whose children are still to be visited.
  for (std::size_t at = 0; at < tree.objects.size() && !budget.exhausted(); ++at) {
    const TreeObject parent = tree.objects[at];
    const auto add_break = [&tree, &parent](WalkBreak broken) {
      broken.path = fmt::format("children of {}", parent.object);
      tree.breaks.add(std::move(broken));
    };
    walk_list(reader, budget, parent.object + offsets.children, max_objects - tree.objects.size(), children);
    for (const Kva node : children.nodes) {
      const Kva object = node - offsets.sibling;
      if (!seen.insert(object)) {
        add_break({.kind = WalkBreak::Kind::kCycle, .node = node, .fault = {}, .path = {}});
        continue;
      }
      tree.objects.push_back({.object = object, .parent = at, .depth = parent.depth + 1});
    }
    if (!children.broken || children.broken->kind == WalkBreak::Kind::kUninitialised) continue;
    const bool limit = children.broken->kind == WalkBreak::Kind::kLimit;
    if (limit) children.broken->expected = max_objects;
    add_break(*std::move(children.broken));
    if (limit) break;
  }
  return tree;
}

}  // namespace ktstr
