#include "host/inspect/walk/xarray.h"

#include <array>
#include <bit>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "host/inspect/walk/kva_set.h"
#include "host/inspect/walk/poison.h"

namespace ktstr {

namespace {

constexpr std::uint64_t kMaxSlots = 64;
constexpr std::uint64_t kInternal = 2;
constexpr std::uint64_t kKindBits = 3;
constexpr std::uint64_t kFirstNode = 4096;
// xa_mk_internal(256) and (257).
constexpr std::uint64_t kRetryEntry = 256 << 2 | kInternal;
constexpr std::uint64_t kZeroEntry = 257 << 2 | kInternal;
constexpr std::uint32_t kIndexBits = 64;

using Kind = WalkBreak::Kind;

bool is_internal(std::uint64_t entry) {
  return (entry & kKindBits) == kInternal;
}

class XarrayWalk {
 public:
  XarrayWalk(KernelReader& reader, ReadBudget& budget, const XarrayOffsets& offsets,
             std::uint64_t first_index, std::uint64_t max_entries)
      : reader_(reader),
        budget_(budget),
        offsets_(offsets),
        chunk_shift_(static_cast<std::uint32_t>(std::countr_zero(offsets.slots))),
        first_index_(first_index),
        max_entries_(max_entries) {}

  XarrayContents run(Kva xarray) {
    const Kva place = xarray + offsets_.head;
    if (!std::has_single_bit(offsets_.slots) || offsets_.slots > kMaxSlots || offsets_.slots == 1) {
      add({.kind = Kind::kMalformed, .node = xarray, .found = offsets_.slots, .fault = {}, .path = {}});
      return std::move(contents_);
    }
    const auto head = reader_.read<std::uint64_t>(place, budget_);
    if (!head) {
      fault(place, head.error());
    } else {
      take(*head, {.place = place, .parent = Kva(), .slot = 0, .index = 0, .shift = kIndexBits});
    }
    return std::move(contents_);
  }

 private:
  // Where an entry was found.
  struct Slot {
    Kva place;
    Kva parent;              // the node; null for the head
    std::uint64_t slot = 0;  // number of the slot in it
    std::uint64_t index = 0;
    std::uint32_t shift = 0;  // of the node; kIndexBits for the head
  };

  void take(std::uint64_t entry, const Slot& slot) {
    if (entry == 0) return;
    if (is_internal(entry)) {
      if (entry > kFirstNode) return walk_node(Kva(entry - kInternal), slot);
      // Siblings repeat an entry of a lower slot; a retry mark is nothing by itself.
      if (entry < (offsets_.slots << 2) || entry == kRetryEntry) return;
      if (entry != kZeroEntry)
        return add(
            {.kind = Kind::kMalformed, .node = slot.place, .found = entry, .fault = {}, .path = path_});
    } else if (is_poison(entry)) {
      return add({.kind = Kind::kPoison, .node = slot.place, .found = entry, .fault = {}, .path = path_});
    }
    if (contents_.entries.size() >= max_entries_) return limit(slot.place);
    contents_.entries.push_back({.index = first_index_ + slot.index, .entry = entry});
  }

  void walk_node(Kva node, const Slot& from) {
    if (auto bad = check_link(from.place, node)) {
      bad->path = path_;
      return add(*std::move(bad));
    }
    if (nodes_.size() >= max_entries_) return limit(node);
    if (!nodes_.insert(node)) return add({.kind = Kind::kCycle, .node = node, .fault = {}, .path = path_});
    const auto shift = reader_.read<std::uint8_t>(node + offsets_.node_shift, budget_);
    if (!shift) return fault(node, shift.error());
    // Each level stands for fewer indices than the one above, which bounds the depth.
    if (*shift % chunk_shift_ != 0 || *shift >= from.shift)
      return add({.kind = Kind::kMalformed, .node = node, .found = *shift, .fault = {}, .path = path_});
    if (!check_back(node, from)) return;
    std::array<std::uint64_t, kMaxSlots> slots;
    const Kva place = node + offsets_.node_slots;
    const auto read = reader_.read(
        place, std::as_writable_bytes(std::span(slots).first(static_cast<std::size_t>(offsets_.slots))),
        budget_);
    if (!read) return fault(place, read.error());
    const std::size_t length = path_.size();
    for (std::uint64_t n = 0; n < offsets_.slots && !stopped_; ++n) {
      if (slots[n] == 0) continue;
      path_ += fmt::format("{}slots[{}]", length == 0 ? "" : ".", n);
      const std::uint64_t offset = n << *shift;
      if (offset >> *shift != n) {
        add({.kind = Kind::kMalformed, .node = node, .found = slots[n], .fault = {}, .path = path_});
      } else {
        take(slots[n], {.place = place + n * sizeof(std::uint64_t),
                        .parent = node,
                        .slot = n,
                        .index = from.index + offset,
                        .shift = *shift});
      }
      path_.resize(length);
    }
  }

  // A node tells its parent and its place there. While the array grows or shrinks at the top they may be
  // wrong, so the walk goes on. False when they can not be read.
  bool check_back(Kva node, const Slot& from) {
    const auto parent = reader_.read<Kva>(node + offsets_.node_parent, budget_);
    if (!parent) return fault(node, parent.error()), false;
    const auto offset = reader_.read<std::uint8_t>(node + offsets_.node_offset, budget_);
    if (!offset) return fault(node, offset.error()), false;
    if (*parent != from.parent) {
      add({.kind = Kind::kTorn,
           .node = node,
           .found = parent->value(),
           .expected = from.parent.value(),
           .fault = {},
           .path = path_});
    } else if (*offset != from.slot) {
      add({.kind = Kind::kTorn,
           .node = node,
           .found = *offset,
           .expected = from.slot,
           .fault = {},
           .path = path_});
    }
    return true;
  }

  void limit(Kva node) {
    stopped_ = true;
    add({.kind = Kind::kLimit, .node = node, .expected = max_entries_, .fault = {}, .path = path_});
  }
  void fault(Kva node, const Fault& fault) {
    stopped_ = stopped_ || budget_.exhausted();
    add({.kind = Kind::kFault, .node = node, .fault = fault, .path = path_});
  }
  void add(WalkBreak broken) { contents_.breaks.add(std::move(broken)); }

  KernelReader& reader_;
  ReadBudget& budget_;
  const XarrayOffsets& offsets_;
  std::uint32_t chunk_shift_;
  std::uint64_t first_index_;
  std::uint64_t max_entries_;
  XarrayContents contents_;
  KvaSet nodes_;
  std::string path_;
  bool stopped_ = false;
};

}  // namespace

XarrayContents walk_xarray(KernelReader& reader, ReadBudget& budget, Kva xarray, const XarrayOffsets& offsets,
                           std::uint64_t max_entries) {
  return XarrayWalk(reader, budget, offsets, 0, max_entries).run(xarray);
}

XarrayContents walk_idr(KernelReader& reader, ReadBudget& budget, Kva idr, const IdrOffsets& idr_offsets,
                        const XarrayOffsets& offsets, std::uint64_t max_entries) {
  const auto base = reader.read<std::uint32_t>(idr + idr_offsets.idr_base, budget);
  if (!base) {
    XarrayContents nothing;
    nothing.breaks.add({.kind = Kind::kFault, .node = idr, .fault = base.error(), .path = "idr_base"});
    return nothing;
  }
  return XarrayWalk(reader, budget, offsets, *base, max_entries).run(idr + idr_offsets.idr_rt);
}

}  // namespace ktstr
