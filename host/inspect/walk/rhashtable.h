// Walks of the kernel's resizable hash tables, struct rhashtable (include/linux/rhashtable.h,
// lib/rhashtable.c). sched_ext keeps its dispatch queues in one.
//
// The parts, as far as a reader is concerned:
//
//   - rhashtable.tbl points to a bucket_table of `size` buckets, a power of two. A bucket is a pointer to the
//     first rhash_head of its chain; bit 0 is the bucket's lock; an empty one is null (or only the lock).
//   - a chain ends in a "nulls marker": an odd value, the address of its bucket with bit 0 set. So the last
//     element's `next` is never null.
//   - while it is resized, tbl->future_tbl is the table being filled (and that one may have its own). An
//     element is in one of the two, for a moment in both: it is linked into the new chain first, which makes
//     the tail of the old chain lead into the new one.
//   - when memory was short the buckets are "nested": buckets[0] points to a page of 2^nest pointers, each to
//     a page of 512 that are either buckets or, in larger tables, pointers to pages again. Pages that nothing
//     was stored in are missing.
//
// Elements are linked in by a single store of a finished element, so a table never looks torn to a reader
// that comes at any moment; breaks here mean damage (or a limit).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "host/inspect/walk/walk_break.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Offsets in bytes, from BTF.
struct RhashtableOffsets {
  std::uint64_t tbl = 0;               // struct rhashtable
  std::uint64_t table_size = 0;        // struct bucket_table: size (u32)
  std::uint64_t table_nest = 0;        // nest (u32)
  std::uint64_t table_future_tbl = 0;  // future_tbl
  std::uint64_t table_buckets = 0;     // buckets[0]
  std::uint64_t head_next = 0;         // struct rhash_head
};

struct RhashtableLimits {
  std::uint64_t nodes = 100'000;     // in all tables together
  std::uint64_t buckets = 1 << 20;   // of one table; a larger one is a break
  std::uint64_t chain = 4096;        // the kernel rehashes when one is longer than 16
  static constexpr int kTables = 4;  // tbl and its future tables
};

struct RhashtableContents {
  // Addresses of the struct rhash_head inside each element, each once, in the order of buckets.
  std::vector<Kva> nodes;
  // Where chains or tables could not be followed. An rhashtable that was never initialised (tbl null) gives
  // one break kUninitialised.
  WalkBreaks breaks;
  // Tables that were walked; more than one while it is resized.
  int tables = 0;
};

RhashtableContents walk_rhashtable(KernelReader& reader, ReadBudget& budget, Kva rhashtable,
                                   const RhashtableOffsets& offsets, const RhashtableLimits& limits = {});

}  // namespace ktstr
