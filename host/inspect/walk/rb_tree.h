// Walks of the kernel's red-black trees, struct rb_root (include/linux/rbtree.h, lib/rbtree.c).
//
// A node is three words: parent and colour in one (__rb_parent_color; the low two bits are not part of the
// address), right child, left child. A vCPU that stops inside a rotation leaves nodes whose parent pointer is
// not that of the node they hang below; such nodes are reported as torn and are gone through all the same.
// Each node is visited once, whatever the links say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "host/inspect/walk/walk_break.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Most left turns on the way to a node; a sound tree of 2^64 nodes is no deeper than 128.
inline constexpr std::size_t kMaxRbDepth = 128;

struct RbTreeContents {
  // Addresses of the struct rb_node inside each element, in the order of the tree.
  std::vector<Kva> nodes;
  // The first thing that was wrong, and how many there were.
  std::optional<WalkBreak> broken;
  std::uint64_t breaks = 0;
};

// All nodes of the tree whose struct rb_root is at `root` (the first member of a struct rb_root_cached), at
// most `max_nodes`.
RbTreeContents walk_rb_tree(KernelReader& reader, ReadBudget& budget, Kva root, std::uint64_t max_nodes);

}  // namespace ktstr
