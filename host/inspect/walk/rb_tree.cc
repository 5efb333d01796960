#include "host/inspect/walk/rb_tree.h"

#include <array>
#include <utility>

#include "host/inspect/walk/kva_set.h"

namespace ktstr {

namespace {

constexpr std::uint64_t kColourBits = 3;

// struct rb_node as it lies in memory.
struct RbNode {
  std::uint64_t parent_color = 0;
  Kva right;
  Kva left;
};

using Kind = WalkBreak::Kind;

class RbTreeWalk {
 public:
  RbTreeWalk(KernelReader& reader, ReadBudget& budget, std::uint64_t max_nodes)
      : reader_(reader), budget_(budget), max_nodes_(max_nodes) {}

  RbTreeContents run(Kva root) {
    const auto top = reader_.read<Kva>(root, budget_);
    if (!top) {
      fault(root, top.error());
      return std::move(contents_);
    }
    down(root, Kva(), *top);
    while (depth_ > 0 && !stopped_) {
      const Pending next = pending_[--depth_];
      contents_.nodes.push_back(next.node);
      down(next.node, next.node, next.right);
    }
    // What was read but not reached in order any more.
    while (depth_ > 0) contents_.nodes.push_back(pending_[--depth_].node);
    return std::move(contents_);
  }

 private:
  struct Pending {
    Kva node;
    Kva right;
  };

  // Goes down to the left from `node`, which `holder` points to. `parent` is what it should point back to:
  // nothing for the topmost node.
  void down(Kva holder, Kva parent, Kva node) {
    while (node != Kva() && !stopped_) {
      if (auto bad = check_link(holder, node)) return add(*std::move(bad));
      if (seen_.contains(node)) return add({.kind = Kind::kCycle, .node = node, .fault = {}, .path = {}});
      if (depth_ == kMaxRbDepth)
        return add({.kind = Kind::kMalformed, .node = node, .found = depth_, .fault = {}, .path = {}});
      if (seen_.size() >= max_nodes_) {
        stopped_ = true;
        return add({.kind = Kind::kLimit, .node = node, .expected = max_nodes_, .fault = {}, .path = {}});
      }
      const auto links = reader_.read<RbNode>(node, budget_);
      if (!links) return fault(node, links.error());
      const std::uint64_t back = links->parent_color & ~kColourBits;
      if (back != parent.value()) {
        add({.kind = Kind::kTorn,
             .node = node,
             .found = back,
             .expected = parent.value(),
             .fault = {},
             .path = {}});
      }
      seen_.insert(node);
      pending_[depth_++] = {.node = node, .right = links->right};
      holder = parent = node;
      node = links->left;
    }
  }

  void fault(Kva node, const Fault& fault) {
    stopped_ = stopped_ || budget_.exhausted();
    add({.kind = Kind::kFault, .node = node, .fault = fault, .path = {}});
  }
  void add(WalkBreak broken) {
    ++contents_.breaks;
    if (!contents_.broken) contents_.broken = std::move(broken);
  }

  KernelReader& reader_;
  ReadBudget& budget_;
  std::uint64_t max_nodes_;
  RbTreeContents contents_;
  KvaSet seen_;
  // Nodes whose left side is being walked, the deepest last.
  std::array<Pending, kMaxRbDepth> pending_;
  std::size_t depth_ = 0;
  bool stopped_ = false;
};

}  // namespace

RbTreeContents walk_rb_tree(KernelReader& reader, ReadBudget& budget, Kva root, std::uint64_t max_nodes) {
  return RbTreeWalk(reader, budget, max_nodes).run(root);
}

}  // namespace ktstr
