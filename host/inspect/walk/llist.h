// Walks of the kernel's lock-less lists, struct llist_head (include/linux/llist.h): single links from the
// element added last to the one added first. Adding is one store to the head, so a list is never torn.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "host/inspect/walk/walk_break.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

struct LlistContents {
  // Addresses of the struct llist_node inside each element, the newest first.
  std::vector<Kva> nodes;
  std::optional<WalkBreak> broken;
};

// All nodes of the list whose struct llist_head is at `head`, at most `max_nodes`.
LlistContents walk_llist(KernelReader& reader, ReadBudget& budget, Kva head, std::uint64_t max_nodes);

}  // namespace ktstr
