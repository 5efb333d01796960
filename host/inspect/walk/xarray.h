// Walks of the kernel's sparse arrays, struct xarray (include/linux/xarray.h, lib/xarray.c), and of struct
// idr, which is one with a base (include/linux/idr.h).
//
// The low two bits of an entry tell what it is: 00 a pointer, x1 a small number ("value") or a tagged
// pointer, 10 internal. Internal entries above 4096 point to a node (its address plus 2); the small ones are
// siblings (the entry belongs to the one at a lower index), retry marks and reserved places ("zero"). A node
// has 64 slots (16 in kernels built small), each of them standing for 2^shift indices.
#pragma once

#include <cstdint>
#include <vector>

#include "host/inspect/walk/walk_break.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Offsets in bytes, from BTF.
struct XarrayOffsets {
  std::uint64_t head = 0;         // struct xarray: xa_head
  std::uint64_t node_shift = 0;   // struct xa_node: shift (u8)
  std::uint64_t node_offset = 0;  // offset (u8)
  std::uint64_t node_parent = 0;  // parent
  std::uint64_t node_slots = 0;   // slots[0]
  std::uint64_t slots = 64;       // how many slots a node has: 64 or 16
};

struct IdrOffsets {
  std::uint64_t idr_rt = 0;    // struct idr: the array inside
  std::uint64_t idr_base = 0;  // u32: the id of index 0
};

struct XarrayEntry {
  std::uint64_t index = 0;  // for an idr the id
  std::uint64_t entry = 0;  // as it is stored

  bool is_value() const { return (entry & 1) != 0; }
  // A place that is taken, with nothing stored yet.
  bool is_reserved() const { return (entry & 3) == 2; }
  Kva pointer() const { return Kva(entry); }
  std::uint64_t value() const { return entry >> 1; }

  bool operator==(const XarrayEntry&) const = default;
};

struct XarrayContents {
  std::vector<XarrayEntry> entries;  // ascending by index; empty slots are left out
  WalkBreaks breaks;                 // paths: "slots[3].slots[0]"
};

// All entries, at most `max_entries` and as many nodes.
XarrayContents walk_xarray(KernelReader& reader, ReadBudget& budget, Kva xarray, const XarrayOffsets& offsets,
                           std::uint64_t max_entries);

// All ids of an idr and what they stand for.
XarrayContents walk_idr(KernelReader& reader, ReadBudget& budget, Kva idr, const IdrOffsets& idr_offsets,
                        const XarrayOffsets& offsets, std::uint64_t max_entries);

}  // namespace ktstr
