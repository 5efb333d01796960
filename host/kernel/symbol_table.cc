#include "host/kernel/symbol_table.h"

#include <sys/mman.h>

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
  return parts_.text.substr(parts_.names[index], parts_.names[index + 1] - parts_.names[index]);
}

std::pair<std::size_t, std::size_t> SymbolTable::bucket(std::uint32_t hash) const {
  if (parts_.buckets.empty()) return {0, 0};
  const std::size_t index = hash & (parts_.buckets.size() - 2);  // the number of buckets is a power of two
  return {parts_.buckets[index], parts_.buckets[index + 1]};
}

std::vector<std::uint64_t> SymbolTable::addresses(std::string_view wanted) const {
  std::vector<std::uint64_t> found;
  const auto [begin, end] = bucket(hash_of(wanted));
  for (std::size_t i = begin; i < end; ++i) {
    const std::size_t index = parts_.order[i];
    if (name(index) != wanted) continue;
    if (found.empty() || found.back() != parts_.addresses[index]) found.push_back(parts_.addresses[index]);
  }
  return found;
}

std::optional<std::uint64_t> SymbolTable::find(std::string_view wanted) const {
  const auto found = addresses(wanted);
  if (found.size() != 1) return std::nullopt;
  return found.front();
}

std::string SymbolTable::lacks(std::string_view name) const {
  // Of several names one that is there after all, but more than once.
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find(", ", begin), name.size());
    const std::string_view one = name.substr(begin, end - begin);
    if (const std::size_t count = addresses(one).size(); count > 1)
      return fmt::format("{} stands for {} symbols of the kernel, and which one is meant is not known", one,
                         count);
    begin = end + 2;
  }
  if (source_ != SymbolSource::kImage) return fmt::format("the kernel has no symbol {}", name);
  return fmt::format(
      "it is not known where {} is: the kernel was built without CONFIG_KALLSYMS_ALL, so its image names "
      "only "
      "functions, exports and per-CPU variables; give its vmlinux or System.map",
      name);
}

Expected<std::uint64_t> SymbolTable::address(std::string_view wanted) const {
  const auto found = addresses(wanted);
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    if (source_ == SymbolSource::kImage) return fail(ErrorCode::kKernelLacks, lacks(wanted));
    return fail(ErrorCode::kKernelLacks, fmt::format("{}, says {}", lacks(quote(wanted)), origin_));
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
    found.push_back({.name = candidate, .address = parts_.addresses[i]});
  }
  give_back_pages();
  return found;
}

std::optional<SymbolAt> SymbolTable::nearest(std::uint64_t wanted) const {
  const bool inside = parts_.extent.contains(wanted);
  if (!inside && source_ != SymbolSource::kImage) return std::nullopt;
  const auto after = std::upper_bound(parts_.addresses.begin(), parts_.addresses.end(), wanted);
  if (after == parts_.addresses.begin()) return std::nullopt;
  const std::uint64_t found = *(after - 1);
  // Below the extent there are only per-CPU offsets and constants. Behind that of functions is data.
  const bool exact = found == wanted && wanted >= parts_.extent.end;
  if (inside ? !parts_.extent.contains(found) : !exact) return std::nullopt;
  const auto first = std::lower_bound(parts_.addresses.begin(), after, found);
  const auto index = static_cast<std::size_t>(first - parts_.addresses.begin());
  return SymbolAt{.name = name(index), .address = found, .offset = wanted - found};
}

std::size_t SymbolTable::count_ambiguous() const {
  std::size_t count = 0;
  std::vector<std::pair<std::string_view, std::uint64_t>> entries;
  for (std::size_t b = 0; b + 1 < parts_.buckets.size(); ++b) {
    if (parts_.buckets[b + 1] - parts_.buckets[b] < 2) continue;
    entries.clear();
    for (std::size_t i = parts_.buckets[b]; i < parts_.buckets[b + 1]; ++i) {
      entries.emplace_back(name(parts_.order[i]), parts_.addresses[parts_.order[i]]);
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

// They are read again from the page cache when they are needed; until then they do not count as this
// process's memory.
void SymbolTable::give_back_pages() const {
  if (!mapped_) return;
  const auto bytes = std::as_bytes(parts_.addresses);
  void* begin = const_cast<std::byte*>(bytes.data());
  const auto* const end = reinterpret_cast<const std::byte*>(parts_.text.data() + parts_.text.size());
  std::size_t size = static_cast<std::size_t>(end - bytes.data());
  constexpr std::size_t kPage = 4096;
  // Whole pages only: what lies beside them is not ours.
  if (std::align(kPage, kPage, begin, size) == nullptr) return;
  static_cast<void>(::madvise(begin, size / kPage * kPage, MADV_DONTNEED));
}

std::optional<SymbolTable> SymbolTable::from_parts(const Parts& parts, std::shared_ptr<const void> owner,
                                                   SymbolSource source, std::string origin) {
  const std::size_t count = parts.addresses.size();
  if (count > kMaxSymbols || parts.text.size() > kMaxNameBytes) return std::nullopt;
  if (parts.names.size() != count + 1 || parts.order.size() != count) return std::nullopt;
  const std::size_t buckets = parts.buckets.size();
  if (buckets < 2 || !std::has_single_bit(buckets - 1)) return std::nullopt;
  // A view of parts_.text ends where the next begins, a bucket where the next begins.
  const bool fits = parts.names.back() == parts.text.size() && parts.buckets.back() == count &&
                    std::ranges::is_sorted(parts.addresses) && std::ranges::is_sorted(parts.names) &&
                    std::ranges::is_sorted(parts.buckets) &&
                    std::ranges::all_of(parts.order, [count](std::uint32_t index) { return index < count; });
  if (!fits) return std::nullopt;
  SymbolTable table;
  table.source_ = source;
  table.origin_ = std::move(origin);
  table.parts_ = parts;
  table.owner_ = std::move(owner);
  table.mapped_ = true;
  return table;
}

std::size_t SymbolTable::memory() const {
  return parts_.text.size() + parts_.addresses.size() * sizeof(std::uint64_t) +
         (parts_.names.size() + parts_.buckets.size() + parts_.order.size()) * sizeof(std::uint32_t);
}

SymbolTable::Builder::Builder(std::size_t count) : storage_(std::make_shared<Storage>()) {
  count = std::min(count, kMaxReserve);
  storage_->text.reserve(count * kMeanName);
  storage_->names.reserve(count + 1);
  storage_->addresses.reserve(count);
  hashes_.reserve(count);
}

bool SymbolTable::Builder::add(std::string_view name, std::uint64_t address) {
  if (name.empty() || name.size() > kMaxName) return false;
  if (hashes_.size() >= kMaxSymbols || name.size() > kMaxNameBytes - storage_->text.size()) return false;
  if (!storage_->addresses.empty() && address < storage_->addresses.back()) return false;
  storage_->names.push_back(static_cast<std::uint32_t>(storage_->text.size()));
  storage_->text.append(name);
  storage_->addresses.push_back(address);
  hashes_.push_back(hash_of(name));
  return true;
}

SymbolTable SymbolTable::Builder::finish(SymbolSource source, std::string origin, AddressRange extent) && {
  SymbolTable table;
  table.source_ = source;
  table.origin_ = std::move(origin);
  table.parts_.extent = extent;
  if (hashes_.empty()) return table;
  storage_->names.push_back(static_cast<std::uint32_t>(storage_->text.size()));

  // A counting sort by bucket, several times faster than inserting into a hash table: the buckets fit into
  // the processor's cache.
  const std::size_t bucket_count = std::bit_ceil(hashes_.size());
  const std::size_t mask = bucket_count - 1;
  auto& buckets = storage_->buckets;
  buckets.assign(bucket_count + 1, 0);
  for (const std::uint32_t hash : hashes_) ++buckets[(hash & mask) + 1];
  for (std::size_t i = 1; i <= bucket_count; ++i) buckets[i] += buckets[i - 1];
  storage_->order.resize(hashes_.size());
  // Backwards, each bucket filled from its end, which moves its end to its beginning.
  for (std::size_t i = hashes_.size(); i-- > 0;) {
    storage_->order[--buckets[(hashes_[i] & mask) + 1]] = static_cast<std::uint32_t>(i);
  }
  // Now entry b + 1 is where bucket b begins: shift by one.
  std::rotate(buckets.begin(), buckets.begin() + 1, buckets.end());
  buckets.back() = static_cast<std::uint32_t>(hashes_.size());
  table.parts_.addresses = storage_->addresses;
  table.parts_.names = storage_->names;
  table.parts_.buckets = buckets;
  table.parts_.order = storage_->order;
  table.parts_.text = storage_->text;
  table.owner_ = std::move(storage_);
  return table;
}

}  // namespace ktstr
