#include "host/kernel/symbol_table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {
namespace {

// The upper half of the address space is the kernel's (Documentation/arch/x86/x86_64/mm.rst).
constexpr std::uint64_t kUpperHalf = std::uint64_t{1} << 63;
// What is reserved on the word of a file before anything is known to be there.
constexpr std::size_t kMaxReserve = std::size_t{1} << 18;
constexpr std::size_t kMeanName = 32;  // what is reserved and not used never becomes memory
// Addresses of an ambiguous name that a message lists.
constexpr std::size_t kMaxListed = 4;

// Eight bytes at a time: names are short, and there are 200,000 of them.
std::uint32_t hash_of(std::string_view name) {
  constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;
  std::uint64_t hash = name.size() * kFactor;
  while (!name.empty()) {
    std::uint64_t word = 0;
    const std::size_t taken = std::min(name.size(), sizeof word);
    if (taken == sizeof word) {
      std::memcpy(&word, name.data(), sizeof word);
    } else {
      std::memcpy(&word, name.data(), taken);
    }
    hash = (std::rotl(hash, 23) ^ word) * kFactor;
    name.remove_prefix(taken);
  }
  return static_cast<std::uint32_t>(hash >> 32);
}

}  // namespace

AddressRange kernel_extent(const ElfView& elf) {
  AddressRange range{.begin = UINT64_MAX, .end = 0};
  for (const Elf64_Phdr& segment : elf.segments()) {
    if (segment.p_type != PT_LOAD || segment.p_vaddr < kUpperHalf) continue;
    if (segment.p_memsz > UINT64_MAX - segment.p_vaddr) continue;
    range.begin = std::min(range.begin, segment.p_vaddr);
    range.end = std::max(range.end, segment.p_vaddr + segment.p_memsz);
  }
  return range.begin < range.end ? range : AddressRange{};
}

std::string_view SymbolTable::name(std::size_t index) const {
  return std::string_view(text_).substr(names_[index], names_[index + 1] - names_[index]);
}

std::pair<std::size_t, std::size_t> SymbolTable::bucket(std::uint32_t hash) const {
  if (buckets_.empty()) return {0, 0};
  const std::size_t index = hash & (buckets_.size() - 2);  // the number of buckets is a power of two
  return {buckets_[index], buckets_[index + 1]};
}

std::vector<std::uint64_t> SymbolTable::addresses(std::string_view wanted) const {
  std::vector<std::uint64_t> found;
  const auto [begin, end] = bucket(hash_of(wanted));
  for (std::size_t i = begin; i < end; ++i) {
    const std::size_t index = order_[i];
    if (name(index) != wanted) continue;
    if (found.empty() || found.back() != addresses_[index]) found.push_back(addresses_[index]);
  }
  return found;
}

std::optional<std::uint64_t> SymbolTable::find(std::string_view wanted) const {
  const auto found = addresses(wanted);
  if (found.size() != 1) return std::nullopt;
  return found.front();
}

Expected<std::uint64_t> SymbolTable::address(std::string_view wanted) const {
  const auto found = addresses(wanted);
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    return fail(ErrorCode::kKernelLacks,
                fmt::format("the kernel has no symbol {}, says {}", quote(wanted), origin_));
  }
  std::string list;
  for (std::size_t i = 0; i < std::min(found.size(), kMaxListed); ++i) {
    list += fmt::format("{}{:#x}", i == 0 ? "" : ", ", found[i]);
  }
  if (found.size() > kMaxListed) list += ", ...";
  return fail(ErrorCode::kKernelLacks,
              fmt::format("the symbol {} is ambiguous: {} has {} of that name, at {}", quote(wanted), origin_,
                          found.size(), list));
}

std::vector<SymbolAt> SymbolTable::variants(std::string_view wanted) const {
  std::vector<SymbolAt> found;
  for (std::size_t i = 0; i < size(); ++i) {
    const std::string_view candidate = name(i);
    if (candidate.size() <= wanted.size() + 1 || candidate[wanted.size()] != '.') continue;
    if (!candidate.starts_with(wanted) || candidate.ends_with(".cold")) continue;
    found.push_back({.name = candidate, .address = addresses_[i]});
  }
  return found;
}

std::optional<SymbolAt> SymbolTable::nearest(std::uint64_t wanted) const {
  if (!extent_.contains(wanted)) return std::nullopt;
  const auto after = std::upper_bound(addresses_.begin(), addresses_.end(), wanted);
  if (after == addresses_.begin()) return std::nullopt;
  const std::uint64_t found = *(after - 1);
  // Below the extent there are only per-CPU offsets and constants.
  if (!extent_.contains(found)) return std::nullopt;
  const auto first = std::lower_bound(addresses_.begin(), after, found);
  const auto index = static_cast<std::size_t>(first - addresses_.begin());
  return SymbolAt{.name = name(index), .address = found, .offset = wanted - found};
}

std::size_t SymbolTable::count_ambiguous() const {
  std::size_t count = 0;
  std::vector<std::pair<std::string_view, std::uint64_t>> entries;
  for (std::size_t b = 0; b + 1 < buckets_.size(); ++b) {
    if (buckets_[b + 1] - buckets_[b] < 2) continue;
    entries.clear();
    for (std::size_t i = buckets_[b]; i < buckets_[b + 1]; ++i) {
      entries.emplace_back(name(order_[i]), addresses_[order_[i]]);
    }
    // Sorted, so that many symbols in one bucket do not cost the square of their number.
    std::sort(entries.begin(), entries.end());
    for (std::size_t i = 0; i < entries.size();) {
      std::size_t next = i + 1;
      while (next < entries.size() && entries[next].first == entries[i].first) ++next;
      if (entries[next - 1].second != entries[i].second) ++count;
      i = next;
    }
  }
  return count;
}

std::size_t SymbolTable::memory() const {
  return text_.size() + addresses_.size() * sizeof(std::uint64_t) +
         (names_.size() + buckets_.size() + order_.size()) * sizeof(std::uint32_t);
}

SymbolTable::Builder::Builder(std::size_t count) {
  count = std::min(count, kMaxReserve);
  table_.text_.reserve(count * kMeanName);
  table_.names_.reserve(count + 1);
  table_.addresses_.reserve(count);
  hashes_.reserve(count);
}

bool SymbolTable::Builder::add(std::string_view name, std::uint64_t address) {
  if (name.empty() || name.size() > kMaxName) return false;
  if (hashes_.size() >= kMaxSymbols || name.size() > kMaxNameBytes - table_.text_.size()) return false;
  if (!table_.addresses_.empty() && address < table_.addresses_.back()) return false;
  table_.names_.push_back(static_cast<std::uint32_t>(table_.text_.size()));
  table_.text_.append(name);
  table_.addresses_.push_back(address);
  hashes_.push_back(hash_of(name));
  return true;
}

SymbolTable SymbolTable::Builder::finish(SymbolSource source, std::string origin, AddressRange extent) && {
  SymbolTable table = std::move(table_);
  table.source_ = source;
  table.origin_ = std::move(origin);
  table.extent_ = extent;
  table.names_.push_back(static_cast<std::uint32_t>(table.text_.size()));
  if (hashes_.empty()) return table;

  // A counting sort by bucket, several times faster than inserting into a hash table: the buckets fit into
  // the processor's cache.
  const std::size_t bucket_count = std::bit_ceil(hashes_.size());
  const std::size_t mask = bucket_count - 1;
  table.buckets_.assign(bucket_count + 1, 0);
  for (const std::uint32_t hash : hashes_) ++table.buckets_[(hash & mask) + 1];
  for (std::size_t i = 1; i <= bucket_count; ++i) table.buckets_[i] += table.buckets_[i - 1];
  table.order_.resize(hashes_.size());
  // Backwards, each bucket filled from its end, which moves its end to its beginning.
  for (std::size_t i = hashes_.size(); i-- > 0;) {
    table.order_[--table.buckets_[(hashes_[i] & mask) + 1]] = static_cast<std::uint32_t>(i);
  }
  // Now entry b + 1 is where bucket b begins: shift by one.
  std::rotate(table.buckets_.begin(), table.buckets_.begin() + 1, table.buckets_.end());
  table.buckets_.back() = static_cast<std::uint32_t>(hashes_.size());
  return table;
}

}  // namespace ktstr
