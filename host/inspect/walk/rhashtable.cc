#include "host/inspect/walk/rhashtable.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "host/inspect/walk/kva_set.h"

namespace ktstr {

namespace {

constexpr std::uint64_t kPointer = sizeof(std::uint64_t);
// Pointers in a page of a nested table: lib/rhashtable.c, 1 << (PAGE_SHIFT - ilog2(sizeof(void *))).
constexpr std::uint32_t kPageBits = 9;
// Buckets that are read at once; on the stack.
constexpr std::uint64_t kPiece = 64;

using Kind = WalkBreak::Kind;

class RhashtableWalk {
 public:
  RhashtableWalk(KernelReader& reader, ReadBudget& budget, const RhashtableOffsets& offsets,
                 const RhashtableLimits& limits)
      : reader_(reader), budget_(budget), offsets_(offsets), limits_(limits) {}

  RhashtableContents run(Kva rhashtable) {
    const auto first = reader_.read<Kva>(rhashtable + offsets_.tbl, budget_);
    if (!first) {
      fault(rhashtable + offsets_.tbl, first.error(), "tbl");
    } else if (*first == Kva()) {
      add({.kind = Kind::kUninitialised, .node = rhashtable, .fault = {}, .path = "tbl"});
    } else {
      walk_tables(rhashtable, *first);
    }
    return std::move(contents_);
  }

 private:
  void walk_tables(Kva rhashtable, Kva table) {
    std::array<Kva, RhashtableLimits::kTables> walked;
    std::string path = "tbl";
    Kva holder = rhashtable;
    for (std::size_t n = 0; table != Kva() && !stopped_; ++n) {
      if (!usable(holder, table, path)) return;
      if (std::find(walked.begin(), walked.begin() + static_cast<std::ptrdiff_t>(n), table) !=
          walked.begin() + static_cast<std::ptrdiff_t>(n)) {
        return add({.kind = Kind::kCycle, .node = table, .fault = {}, .path = path});
      }
      if (n == walked.size())
        return add({.kind = Kind::kLimit, .node = table, .expected = n, .fault = {}, .path = path});
      walked[n] = table;
      // Known before the chains are walked: a chain may lead into the next table.
      const auto future = reader_.read<Kva>(table + offsets_.table_future_tbl, budget_);
      resizing_ = resizing_ || (future && *future != Kva());
      walk_table(table);
      prefix_ += "future_tbl.";
      path = prefix_.substr(0, prefix_.size() - 1);
      if (!future) return fault(table + offsets_.table_future_tbl, future.error(), path);
      holder = table;
      table = *future;
    }
  }

  void walk_table(Kva table) {
    ++contents_.tables;
    const auto size = reader_.read<std::uint32_t>(table + offsets_.table_size, budget_);
    if (!size) return fault(table + offsets_.table_size, size.error(), prefix_ + "size");
    const auto nest = reader_.read<std::uint32_t>(table + offsets_.table_nest, budget_);
    if (!nest) return fault(table + offsets_.table_nest, nest.error(), prefix_ + "nest");
    if (!std::has_single_bit(*size))
      return add(
          {.kind = Kind::kMalformed, .node = table, .found = *size, .fault = {}, .path = prefix_ + "size"});
    if (*size > limits_.buckets) {
      return add({.kind = Kind::kLimit,
                  .node = table,
                  .found = *size,
                  .expected = limits_.buckets,
                  .fault = {},
                  .path = prefix_ + "size"});
    }
    const Kva buckets = table + offsets_.table_buckets;
    if (*nest == 0) return walk_buckets(buckets, *size, 0, 1);
    if (*nest > kPageBits || *size >> *nest == 0)
      return add(
          {.kind = Kind::kMalformed, .node = table, .found = *nest, .fault = {}, .path = prefix_ + "nest"});
    walk_nested(buckets, std::uint64_t{1} << *nest, *size >> *nest, 0, 1);
  }

  // The page that the pointer at `place` leads to: `count` pointers, each to pages with `size` buckets below.
  // Bucket numbers below it begin at `first` and go on in steps of `step`: the low bits of a hash choose
  // among the pages further up.
  void walk_nested(Kva place, std::uint64_t count, std::uint64_t size, std::uint64_t first,
                   std::uint64_t step) {
    const auto page = reader_.read<Kva>(place, budget_);
    if (!page) return fault(place, page.error(), bucket_path(first));
    if (*page == Kva() || !usable(place, *page, bucket_path(first))) return;
    for (std::uint64_t n = 0; n < count && !stopped_; ++n) {
      const Kva entry = *page + n * kPointer;
      const std::uint64_t begin = first + n * step;
      const std::uint64_t below = step * count;
      if (size > std::uint64_t{1} << kPageBits) {
        walk_nested(entry, std::uint64_t{1} << kPageBits, size >> kPageBits, begin, below);
        continue;
      }
      const auto leaf = reader_.read<Kva>(entry, budget_);
      if (!leaf) {
        fault(entry, leaf.error(), bucket_path(begin));
      } else if (*leaf != Kva() && usable(entry, *leaf, bucket_path(begin))) {
        walk_buckets(*leaf, size, begin, below);
      }
    }
  }

  // `count` buckets that lie at `place`, whose numbers are first, first + step, ...
  void walk_buckets(Kva place, std::uint64_t count, std::uint64_t first, std::uint64_t step) {
    std::array<std::uint64_t, kPiece> piece;
    for (std::uint64_t done = 0; done < count && !stopped_;) {
      // Up to the next multiple of a piece's size: a page that is missing takes no others with it.
      const Kva at = place + done * kPointer;
      const std::uint64_t to_seam = kPiece - at.value() / kPointer % kPiece;
      const std::uint64_t size = std::min(count - done, to_seam);
      const auto read = reader_.read(
          at, std::as_writable_bytes(std::span(piece).first(static_cast<std::size_t>(size))), budget_);
      if (!read) fault(at, read.error(), bucket_path(first + done * step));
      for (std::uint64_t n = 0; read && n < size && !stopped_; ++n) {
        const Kva head(piece[n] & ~std::uint64_t{1});  // bit 0 is the lock
        if (head != Kva()) walk_chain(at + n * kPointer, head, first + (done + n) * step);
      }
      done += size;
    }
  }

  void walk_chain(Kva bucket, Kva node, std::uint64_t number) {
    const std::size_t begin = contents_.nodes.size();
    Kva from = bucket;
    while ((node.value() & 1) == 0) {
      if (!usable(from, node, number)) return;
      if (contents_.nodes.size() >= limits_.nodes || contents_.nodes.size() - begin >= limits_.chain) {
        stopped_ = contents_.nodes.size() >= limits_.nodes;
        return add({.kind = Kind::kLimit,
                    .node = node,
                    .expected = stopped_ ? limits_.nodes : limits_.chain,
                    .fault = {},
                    .path = bucket_path(number)});
      }
      if (!seen_.insert(node)) return seen_again(begin, node, number);
      const auto next = reader_.read<Kva>(node + offsets_.head_next, budget_);
      if (!next) return fault(node, next.error(), bucket_path(number));
      contents_.nodes.push_back(node);
      from = node;
      node = *next;
    }
  }

  // While the table is resized a chain may run into one that was walked; never into itself.
  void seen_again(std::size_t begin, Kva node, std::uint64_t number) {
    const auto chain = contents_.nodes.begin() + static_cast<std::ptrdiff_t>(begin);
    const bool own = std::find(chain, contents_.nodes.end(), node) != contents_.nodes.end();
    if (own || !resizing_)
      add({.kind = Kind::kCycle, .node = node, .fault = {}, .path = bucket_path(number)});
  }

  // Whether the pointer found in `holder` can be followed; adds the break when not. `where` is a path or the
  // number of a bucket, which becomes a text only then.
  template <typename Where>
  bool usable(Kva holder, Kva pointer, const Where& where) {
    auto bad = check_link(holder, pointer);
    if (!bad) return true;
    if constexpr (std::is_integral_v<Where>) {
      bad->path = bucket_path(where);
    } else {
      bad->path = where;
    }
    add(*std::move(bad));
    return false;
  }

  std::string bucket_path(std::uint64_t number) const {
    return fmt::format("{}buckets[{}]", prefix_, number);
  }

  void fault(Kva node, const Fault& fault, std::string path) {
    stopped_ = stopped_ || budget_.exhausted();
    add({.kind = Kind::kFault, .node = node, .fault = fault, .path = std::move(path)});
  }

  void add(WalkBreak broken) { contents_.breaks.add(std::move(broken)); }

  KernelReader& reader_;
  ReadBudget& budget_;
  const RhashtableOffsets& offsets_;
  const RhashtableLimits& limits_;
  RhashtableContents contents_;
  KvaSet seen_;
  std::string prefix_;  // "", "future_tbl.", ...
  bool resizing_ = false;
  bool stopped_ = false;  // the budget or the number of nodes is used up
};

}  // namespace

RhashtableContents walk_rhashtable(KernelReader& reader, ReadBudget& budget, Kva rhashtable,
                                   const RhashtableOffsets& offsets, const RhashtableLimits& limits) {
  return RhashtableWalk(reader, budget, offsets, limits).run(rhashtable);
}

}  // namespace ktstr
