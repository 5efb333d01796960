#include "host/inspect/walk/llist.h"

#include "host/inspect/walk/kva_set.h"

namespace ktstr {

LlistContents walk_llist(KernelReader& reader, ReadBudget& budget, Kva head, std::uint64_t max_nodes) {
  LlistContents list;
  KvaSet seen;
  // The head's only member and a node's only member: the pointer to the next node.
  for (Kva from = head;;) {
    const auto next = reader.read<Kva>(from, budget);
    if (!next) {
      // A node that can not be read is none.
      if (!list.nodes.empty()) list.nodes.pop_back();
      list.broken =
          WalkBreak{.kind = WalkBreak::Kind::kFault, .node = from, .fault = next.error(), .path = {}};
      return list;
    }
    if (*next == Kva()) return list;
    list.broken = check_link(from, *next);
    if (list.broken) return list;
    if (seen.contains(*next)) {
      list.broken = WalkBreak{.kind = WalkBreak::Kind::kCycle, .node = *next, .fault = {}, .path = {}};
      return list;
    }
    if (list.nodes.size() >= max_nodes) {
      list.broken = WalkBreak{
          .kind = WalkBreak::Kind::kLimit, .node = *next, .expected = max_nodes, .fault = {}, .path = {}};
      return list;
    }
    seen.insert(*next);
    list.nodes.push_back(*next);
    from = *next;
  }
}

}  // namespace ktstr
