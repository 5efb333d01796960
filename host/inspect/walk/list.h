// Walks of the kernel's doubly linked lists, struct list_head (include/linux/list.h).
//
// A list is a ring of {next, prev} pairs through a head. Every node accepted by the forward walk points back
// to the one before it; that check is what makes the walk trustworthy, and cycle-safe too: a ring that does
// not come home would need a node with two predecessors.
//
// list_add() and list_del() each store four or two pointers, and a vCPU may stop between any of them. Then
// one link is broken, and everything behind it can still be reached backwards from the head. So after a break
// the walk goes on from the other end, until it meets what it has seen.
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

using ListBreak = WalkBreak;

// struct list_head as it lies in memory.
struct ListHead {
  Kva next;
  Kva prev;
};

struct ListContents {
  // Addresses of the struct list_head inside each element, the head not included. In the order of the list:
  // those of the forward walk, then, where that one broke, those reached backwards from the head.
  std::vector<Kva> nodes;
  // How many of `nodes` came by the forward walk; all of them when nothing is broken.
  std::size_t forward = 0;
  // Why the forward walk did not come back to the head. kUninitialised: a head of zeros, an empty list that
  // nobody has initialised.
  std::optional<ListBreak> broken;
};

// All nodes of the list at `head`, at most `max_nodes`. The head itself may be empty (pointing to itself).
// What can not be read is a break of kind kFault; so is an exhausted budget.
ListContents walk_list(KernelReader& reader, ReadBudget& budget, Kva head, std::uint64_t max_nodes);

// The same for a head whose contents were read already; `head` is where it lies.
ListContents walk_list(KernelReader& reader, ReadBudget& budget, Kva head, const ListHead& contents,
                       std::uint64_t max_nodes);

// The same, into `list`, whose memory is used again: for those who walk thousands of short lists.
void walk_list(KernelReader& reader, ReadBudget& budget, Kva head, std::uint64_t max_nodes,
               ListContents& list);

}  // namespace ktstr
