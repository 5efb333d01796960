// Page tables: the input lays down entries and asks for addresses. Whatever the tables say, a walk makes no
// more steps than there are levels, what it gives lies inside the physical address width and the page, and
// reading through it gives the same bytes as reading them one by one where they are.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "host/memory/guest_memory.h"
#include "host/memory/kernel_memory.h"
#include "host/memory/page_table_walk.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kTables = 8;
constexpr std::uint64_t kRam = 0x10000;  // where the tables begin
constexpr std::size_t kMaxEntries = 64;
constexpr std::size_t kMaxAddresses = 16;
constexpr std::size_t kLongestRead = 3 * kPageBytes;

// Guest RAM of a few pages, each of which may be a table, filled with a pattern that is no entry (bit 0
// clear).
class Ram {
 public:
  Ram() : bytes_(kTables * kPageBytes) {
    for (std::size_t at = 0; at < bytes_.size(); ++at) bytes_[at] = static_cast<std::byte>(at * 2);
  }

  void store(std::uint64_t table, std::uint64_t index, std::uint64_t entry) {
    std::memcpy(bytes_.data() + table % kTables * kPageBytes + index % 512 * 8, &entry, sizeof entry);
  }

  GuestMemory memory() const {
    const std::span<const std::byte> all(bytes_);
    // In two regions, so that reads cross a seam.
    const std::size_t seam = 3 * kPageBytes;
    auto memory = GuestMemory::create({{.gpa = Gpa(kRam), .bytes = all.first(seam)},
                                       {.gpa = Gpa(kRam + seam), .bytes = all.subspan(seam)}});
    check(memory.has_value(), "the regions are sound");
    return *memory;
  }

 private:
  std::vector<std::byte> bytes_;
};

// An index that an address made by take_address() reaches, most of the time.
std::uint64_t take_index(FuzzInput& input) {
  static constexpr std::array<std::uint64_t, 4> kUsual = {0, 1, 256, 511};
  const std::uint64_t choice = input.number(1);
  return choice < 240 ? kUsual[choice % kUsual.size()] : input.number(2);
}

// A present entry that leads to one of the tables, to a large page, or anything.
std::uint64_t take_entry(FuzzInput& input) {
  const std::uint64_t kind = input.number(1);
  const std::uint64_t table = kRam + kind / 4 % kTables * kPageBytes;
  switch (kind % 4) {
    case 0:
    case 1:
      return table | 0x63;
    case 2:
      return (input.number(1) << 21) | 0xe3 | (input.number(1) << 52);
    default:
      return input.number(8);
  }
}

Kva take_address(FuzzInput& input) {
  const std::uint64_t kind = input.number(1);
  if (kind % 8 == 0) return Kva(input.number(8));
  std::uint64_t address = 0;
  for (int level = 0; level < 5; ++level) address = address << 9 | take_index(input) % 512;
  address = address << 12 | input.number(2) % kPageBytes;
  // 57 bits, made canonical for five levels or for four.
  const int unused = kind % 2 == 0 ? 7 : 16;
  return Kva(static_cast<std::uint64_t>(static_cast<std::int64_t>(address << unused) >> unused));
}

void check_translation(const GuestMemory& memory, const PageTableWalk& walk, std::uint32_t bits, Kva kva) {
  const auto levels = static_cast<std::uint64_t>(walk.levels());
  ReadBudget budget(1 << 10, 1 << 10);
  const auto translation = walk.translate(memory, kva, budget);
  check((1 << 10) - budget.reads_left() <= levels, "one read for each level at most");
  if (!translation) {
    check(translation.error().level <= levels, "a fault is at a level that exists");
    check(translation.error().kva == kva, "a fault has the address");
    check(translation.error().kind != Fault::Kind::kBudget, "the budget is enough for any walk");
    check(translation.error().to_string().size() < 200, "a fault is one line");
    return;
  }
  check(walk.canonical(kva), "only canonical addresses are translated");
  check(translation->gpa.value() >> bits == 0, "the page is inside the physical address width");
  check(translation->bytes_left >= 1 && translation->bytes_left <= translation->page_size,
        "what is left is inside the page");
  const std::uint64_t offset = translation->page_size - translation->bytes_left;
  check(offset == kva.value() % translation->page_size, "the offset is that of the virtual address");
  check((translation->gpa - offset).value() % translation->page_size == 0, "a page is aligned to its size");
}

void check_read(const GuestMemory& memory, KernelMemory& kernel, const PageTableWalk& walk, Kva kva,
                std::size_t size) {
  std::vector<std::byte> bytes(size);
  ReadBudget budget(1 << 16, 1 << 10);
  const auto whole = kernel.read(kva, bytes, budget);
  check(whole || whole.error().kind != Fault::Kind::kBudget, "the budget is enough for a read");
  // Without the cache, byte by byte; every 61st and those around page boundaries.
  for (std::size_t at = 0; at < size; ++at) {
    const Kva place = kva + at;
    if (at % 61 != 0 && (place.value() + 1) % kPageBytes > 1 && at != size - 1) continue;
    ReadBudget one(1 << 10, 1 << 10);
    const auto translation = walk.translate(memory, place, one);
    const auto byte = translation ? memory.read<std::byte>(translation->gpa, one)
                                  : FaultOr<std::byte>(std::unexpected(translation.error()));
    if (whole) check(byte && *byte == bytes[at], "the bytes are those of the pages");
    if (!byte) check(!whole, "no read goes over what cannot be read");
  }

  ReadBudget for_text(1 << 16, 1 << 12);
  const auto text = kernel.read_c_string(kva, size, for_text);
  if (text) {
    check(text->text.size() + (text->terminated ? 1 : 0) <= size, "a string keeps to its limit");
    check(text->text.find('\0') == std::string::npos, "a string has no zero");
    if (whole)
      check(std::memcmp(text->text.data(), bytes.data(), text->text.size()) == 0, "text and bytes agree");
  } else {
    check(!whole, "what can be read is a string");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const PagingLevels levels = input.number(1) % 2 == 0 ? PagingLevels::kFour : PagingLevels::kFive;
  const auto bits = static_cast<std::uint32_t>(32 + input.number(1) % 21);
  const std::uint64_t root = input.number(1) % 16 == 0 ? input.number(8) : kRam;
  const std::size_t entries = input.number(1) % kMaxEntries;

  Ram ram;
  for (std::size_t n = 0; n < entries; ++n) {
    const std::uint64_t table = input.number(1);
    const std::uint64_t index = take_index(input);
    ram.store(table, index, take_entry(input));
  }
  const GuestMemory memory = ram.memory();
  const PageTableWalk walk(Gpa(root), levels, bits);
  KernelMemory kernel(memory, {.direct_map = {}, .image = {}, .page_tables = walk});
  for (std::size_t n = 0; n < kMaxAddresses && !input.empty(); ++n) {
    const Kva kva = take_address(input);
    check_translation(memory, walk, bits, kva);
    check_read(memory, kernel, walk, kva, input.number(2) % kLongestRead + 1);
  }
  return 0;
}
