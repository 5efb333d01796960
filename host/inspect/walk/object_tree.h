// Walks of trees made of lists: each object has the head of a list of its children, and a node by which it is
// itself in its parent's list. Tasks (task_struct.children, sibling), control groups
// (cgroup_subsys_state.children, sibling) and nested schedulers (scx_sched.children, sibling) are such trees.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "host/inspect/walk/walk_break.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Offsets of the two struct list_head in an object, bytes.
struct TreeOffsets {
  std::uint64_t children = 0;
  std::uint64_t sibling = 0;
};

struct TreeObject {
  Kva object;               // the address of the object itself, not of a list node
  std::size_t parent = 0;   // index of the parent; the root, which is the first, has 0 too
  std::uint32_t depth = 0;  // 0 for the root

  bool operator==(const TreeObject&) const = default;
};

struct ObjectTree {
  // Each object once, level by level, the children of one parent together and in the order of its list.
  std::vector<TreeObject> objects;
  // Paths: "children of 0xffff888000001000". A list of children that was never initialised counts as empty.
  WalkBreaks breaks;
};

// The tree below `root`, at most `max_objects` with the root.
ObjectTree walk_object_tree(KernelReader& reader, ReadBudget& budget, Kva root, const TreeOffsets& offsets,
                            std::uint64_t max_objects);

}  // namespace ktstr
