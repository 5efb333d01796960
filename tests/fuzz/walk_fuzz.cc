// Walkers of the kernel's containers over random memory: whatever it holds, a walk ends, visits each node
// once, and gives no more than it was asked for.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "host/inspect/walk/list.h"
#include "host/inspect/walk/llist.h"
#include "host/inspect/walk/object_tree.h"
#include "host/inspect/walk/rb_tree.h"
#include "host/inspect/walk/rhashtable.h"
#include "host/inspect/walk/xarray.h"
#include "host/memory/kernel_reader.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

constexpr std::size_t kBytes = 8192;
constexpr std::uint64_t kBase = 0xffff888000000000;
constexpr std::uint64_t kMaxNodes = 200;
constexpr std::uint64_t kReads = 20'000;

// One stretch of memory. Each word of the input becomes a pointer into it, with low bits, or anything.
class Memory : public KernelReader {
 public:
  explicit Memory(FuzzInput& input) : bytes_(kBytes) {
    while (!input.empty()) {
      const std::uint64_t place = input.number(2) % (kBytes / 8) * 8;
      const std::uint64_t kind = input.number(1);
      std::uint64_t word = 0;
      if (kind < 160) {
        word = kBase + input.number(2) % kBytes / 8 * 8;
      } else if (kind < 200) {
        word = kBase + input.number(2) % kBytes;
      } else if (kind < 230) {
        word = input.number(2);
      } else {
        word = input.number(8);
      }
      std::memcpy(bytes_.data() + place, &word, sizeof word);
    }
  }

  using KernelReader::read;
  FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) override {
    Fault fault{.kind = Fault::Kind::kNotMapped, .kva = kva, .gpa = {}, .size = out.size()};
    if (!budget.spend(out.size())) {
      fault.kind = Fault::Kind::kBudget;
      return std::unexpected(fault);
    }
    const std::uint64_t offset = kva.value() - kBase;
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return std::unexpected(fault);
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  FaultOr<GuestString> read_c_string(Kva, std::size_t, ReadBudget&) override { return GuestString{}; }

 private:
  std::vector<std::byte> bytes_;
};

void check_nodes(std::vector<Kva> nodes) {
  check(nodes.size() <= kMaxNodes, "no more nodes than were asked for");
  std::sort(nodes.begin(), nodes.end());
  check(std::adjacent_find(nodes.begin(), nodes.end()) == nodes.end(), "each node once");
}

void check_break(const std::optional<WalkBreak>& broken) {
  if (!broken) return;
  check(broken->to_string().size() < 1000, "a break is one line");
  check((broken->kind == WalkBreak::Kind::kFault) == broken->fault.has_value(),
        "a fault, and only that, has one");
}

void check_breaks(const WalkBreaks& breaks) {
  check(breaks.kept.size() <= WalkBreaks::kMaxBreaks, "a bounded number of breaks");
  for (const WalkBreak& broken : breaks) check_break(broken);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const std::uint64_t which = input.number(1);
  const Kva head(kBase + input.number(1) * 8);
  Memory memory(input);
  ReadBudget budget(std::uint64_t{1} << 24, kReads);
  switch (which % 6) {
    case 0: {
      const auto list = walk_list(memory, budget, head, kMaxNodes);
      check_nodes(list.nodes);
      check_break(list.broken);
      check(list.forward <= list.nodes.size(), "the forward part is a part");
      check(list.broken || list.forward == list.nodes.size(), "a sound list is walked forward");
      check(kReads - budget.reads_left() <= 2 * kMaxNodes + 3, "a read for each node");
      break;
    }
    case 1: {
      const auto list = walk_llist(memory, budget, head, kMaxNodes);
      check_nodes(list.nodes);
      check_break(list.broken);
      break;
    }
    case 2: {
      const auto tree = walk_rb_tree(memory, budget, head, kMaxNodes);
      check_nodes(tree.nodes);
      check_break(tree.broken);
      check(tree.broken.has_value() == (tree.breaks != 0), "breaks are counted");
      break;
    }
    case 3: {
      const auto contents = walk_rhashtable(memory, budget, head,
                                            {.tbl = 0,
                                             .table_size = 0,
                                             .table_nest = 4,
                                             .table_future_tbl = 8,
                                             .table_buckets = 16,
                                             .head_next = 0},
                                            {.nodes = kMaxNodes, .buckets = 4096, .chain = 50});
      check_nodes(contents.nodes);
      check_breaks(contents.breaks);
      check(contents.tables <= RhashtableLimits::kTables, "a bounded number of tables");
      break;
    }
    case 4: {
      const auto contents = walk_idr(memory, budget, head, {.idr_rt = 0, .idr_base = 8},
                                     {.head = 0,
                                      .node_shift = 0,
                                      .node_offset = 1,
                                      .node_parent = 8,
                                      .node_slots = 16,
                                      .slots = which / 6 % 2 == 0 ? 16u : 64u},
                                     kMaxNodes);
      check(contents.entries.size() <= kMaxNodes, "no more entries than were asked for");
      check_breaks(contents.breaks);
      break;
    }
    default: {
      const auto tree = walk_object_tree(memory, budget, head, {.children = 0, .sibling = 16}, kMaxNodes);
      std::vector<Kva> objects;
      for (const TreeObject& object : tree.objects) {
        objects.push_back(object.object);
        check(object.parent < tree.objects.size(), "parents are there");
      }
      check_nodes(objects);
      check_breaks(tree.breaks);
    }
  }
  return 0;
}
