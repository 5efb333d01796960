#include "host/memory/kernel_memory.h"

#include <algorithm>
#include <utility>

namespace ktstr {

namespace {

constexpr std::uint32_t kPageShift = 12;
constexpr std::uint64_t kPageBytes = std::uint64_t{1} << kPageShift;

// Where a page is remembered. Per-CPU areas and stacks lie at power-of-two distances: mixing in upper bits
// keeps them from falling on one slot.
constexpr std::size_t slot_of(std::uint64_t page, std::size_t slots) {
  return (page ^ page >> 8 ^ page >> 16) % slots;
}

// Bytes from `kva` to the end of the address space; for address 0, where they are one too many to count, one
// less.
constexpr std::uint64_t most_from(Kva kva) {
  return kva.value() == 0 ? ~std::uint64_t{0} : 0 - kva.value();
}

// A fault of a part, told of the whole read.
std::unexpected<Fault> of_whole(Fault fault, Fault::Access access, Kva kva, std::uint64_t size) {
  fault.kva = kva;
  if (fault.access != Fault::Access::kTableEntry) {
    fault.access = access;
    fault.size = size;
  }
  return std::unexpected(fault);
}

}  // namespace

KernelMemory::KernelMemory(GuestMemory memory, const KernelLayout& layout)
    : memory_(std::move(memory)), layout_(layout) {
  // The sizes come from the guest's symbols and variables, and may be anything.
  if (auto& map = layout_.direct_map) map->size = std::min(map->size, most_from(map->base));
  if (auto& image = layout_.image) image->size = std::min(image->size, most_from(image->begin));
}

std::optional<KernelMemory::Run> KernelMemory::locate_by_shift(Kva kva) const {
  if (const auto& map = layout_.direct_map; map && kva - map->base < map->size) {
    const std::uint64_t offset = kva - map->base;
    return Run{.gpa = Gpa(offset), .size = map->size - offset};
  }
  if (const auto& image = layout_.image; image && kva - image->begin < image->size) {
    const auto base = Gpa(static_cast<std::uint64_t>(image->physical_base));
    return Run{.gpa = base + (kva - image->map_base), .size = image->size - (kva - image->begin)};
  }
  return std::nullopt;
}

FaultOr<KernelMemory::Run> KernelMemory::locate(Kva kva, ReadBudget& budget) {
  if (const auto run = locate_by_shift(kva)) return *run;
  if (!layout_.page_tables)
    return std::unexpected(Fault{.kind = Fault::Kind::kNoPageTables, .kva = kva, .gpa = {}, .size = 1});

  const std::uint64_t page = kva.value() >> kPageShift;
  const std::uint64_t offset = kva.value() % kPageBytes;
  CachedPage& cached = cache_[slot_of(page, cache_.size())];
  if (cached.page != page) {
    const auto translation = layout_.page_tables->translate(memory_, kva, budget);
    if (!translation) return std::unexpected(translation.error());
    cached = {.page = page, .gpa = translation->gpa - offset};
  }
  return Run{.gpa = cached.gpa + offset, .size = kPageBytes - offset};
}

FaultOr<> KernelMemory::read(Kva kva, std::span<std::byte> out, ReadBudget& budget) {
  if (out.empty()) return {};
  const std::uint64_t size = out.size();
  if (kva + (size - 1) < kva)
    return std::unexpected(Fault{.kind = Fault::Kind::kWraps, .kva = kva, .gpa = {}, .size = size});
  while (!out.empty()) {
    const auto run = locate(kva, budget);
    if (!run) return of_whole(run.error(), Fault::Access::kData, kva, size);
    const std::size_t piece = std::min<std::uint64_t>(out.size(), run->size);
    if (const auto done = memory_.read(run->gpa, out.first(piece), budget); !done) {
      const Fault& fault = done.error();
      return of_whole(fault, Fault::Access::kData, kva + (*fault.gpa - run->gpa), size);
    }
    out = out.subspan(piece);
    kva += piece;
  }
  return {};
}

FaultOr<GuestString> KernelMemory::read_c_string(Kva kva, std::size_t limit, ReadBudget& budget) {
  GuestString string;
  while (string.text.size() < limit) {
    const auto run = locate(kva, budget);
    if (!run) return of_whole(run.error(), Fault::Access::kString, kva, limit);
    const std::size_t most = std::min<std::uint64_t>(limit - string.text.size(), run->size);
    auto piece = memory_.read_c_string(run->gpa, most, budget);
    if (!piece) {
      const Fault& fault = piece.error();
      return of_whole(fault, Fault::Access::kString, kva + (*fault.gpa - run->gpa), limit);
    }
    string.text += piece->text;
    string.terminated = piece->terminated;
    if (string.terminated) break;
    kva += most;
    if (kva < Kva(most) && string.text.size() < limit)
      return of_whole(Fault{.kind = Fault::Kind::kWraps, .kva = {}, .gpa = {}}, Fault::Access::kString, kva,
                      limit);
  }
  return string;
}

FaultOr<Gpa> KernelMemory::translate(Kva kva, ReadBudget& budget) {
  const auto run = locate(kva, budget);
  if (!run) return std::unexpected(run.error());
  return run->gpa;
}

void KernelMemory::drop_translations() {
  cache_.fill({});
}

}  // namespace ktstr
