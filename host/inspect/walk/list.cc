#include "host/inspect/walk/list.h"

#include <algorithm>
#include <utility>

#include "host/inspect/walk/kva_set.h"
#include "host/inspect/walk/poison.h"

namespace ktstr {

namespace {

ListBreak fault_at(Kva node, const Fault& fault) {
  return {.kind = ListBreak::Kind::kFault, .node = node, .fault = fault, .path = {}};
}

// A link that is not mutual: when it leads to a node already accepted, the list runs in a circle that does
// not contain the head.
ListBreak torn_at(const ListContents& list, Kva node, Kva found, Kva expected) {
  const bool seen = std::ranges::find(list.nodes, node) != list.nodes.end();
  return {.kind = seen ? ListBreak::Kind::kCycle : ListBreak::Kind::kTorn,
          .node = node,
          .found = found.value(),
          .expected = expected.value(),
          .fault = {},
          .path = {}};
}

std::optional<ListBreak> walk_forward(KernelReader& reader, ReadBudget& budget, Kva head,
                                      const ListHead& contents, std::uint64_t max_nodes, ListContents& list) {
  Kva from = head;
  Kva node = contents.next;
  while (node != head) {
    if (auto bad = check_link(from, node)) return bad;
    if (list.nodes.size() >= max_nodes) {
      return ListBreak{
          .kind = ListBreak::Kind::kLimit, .node = node, .expected = max_nodes, .fault = {}, .path = {}};
    }
    const auto links = reader.read<ListHead>(node, budget);
    if (!links) return fault_at(node, links.error());
    if (links->prev != from) {
      // A deleted node is told by its poison rather than by the link that is not mutual.
      if (is_poison(links->prev.value())) return check_link(node, links->prev);
      return torn_at(list, node, links->prev, from);
    }
    list.nodes.push_back(node);
    from = node;
    node = links->next;
  }
  if (contents.prev != from) return torn_at(list, head, contents.prev, from);
  return std::nullopt;
}

// Appends the nodes that are reached backwards from the head and were not seen, in the order of the list.
// Where this way is broken too there is nothing more to say: the first break is reported.
void walk_backward(KernelReader& reader, ReadBudget& budget, Kva head, const ListHead& contents,
                   std::uint64_t max_nodes, ListContents& list) {
  KvaSet seen;
  for (const Kva node : list.nodes) seen.insert(node);
  Kva from = head;
  Kva node = contents.prev;
  while (node != head && list.nodes.size() < max_nodes && !check_link(from, node) && seen.insert(node)) {
    const auto links = reader.read<ListHead>(node, budget);
    if (!links || links->next != from) break;
    list.nodes.push_back(node);
    from = node;
    node = links->prev;
  }
  std::reverse(list.nodes.begin() + static_cast<std::ptrdiff_t>(list.forward), list.nodes.end());
}

void walk(KernelReader& reader, ReadBudget& budget, Kva head, const ListHead& contents,
          std::uint64_t max_nodes, ListContents& list) {
  if (contents.next == Kva() && contents.prev == Kva()) {
    list.broken = ListBreak{.kind = ListBreak::Kind::kUninitialised, .node = head, .fault = {}, .path = {}};
    return;
  }
  list.broken = walk_forward(reader, budget, head, contents, max_nodes, list);
  list.forward = list.nodes.size();
  if (list.broken && list.broken->kind != ListBreak::Kind::kLimit && !budget.exhausted())
    walk_backward(reader, budget, head, contents, max_nodes, list);
}

}  // namespace

void walk_list(KernelReader& reader, ReadBudget& budget, Kva head, std::uint64_t max_nodes,
               ListContents& list) {
  list.nodes.clear();
  list.forward = 0;
  list.broken.reset();
  const auto contents = reader.read<ListHead>(head, budget);
  if (!contents) {
    list.broken = fault_at(head, contents.error());
    return;
  }
  walk(reader, budget, head, *contents, max_nodes, list);
}

ListContents walk_list(KernelReader& reader, ReadBudget& budget, Kva head, std::uint64_t max_nodes) {
  ListContents list;
  walk_list(reader, budget, head, max_nodes, list);
  return list;
}

ListContents walk_list(KernelReader& reader, ReadBudget& budget, Kva head, const ListHead& contents,
                       std::uint64_t max_nodes) {
  ListContents list;
  walk(reader, budget, head, contents, max_nodes, list);
  return list;
}

}  // namespace ktstr
