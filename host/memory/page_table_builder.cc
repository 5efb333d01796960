#include "host/memory/page_table_builder.h"

namespace ktstr {

namespace {

constexpr std::uint64_t kPageSizeFlag = 0x80;
constexpr std::uint64_t kAddressField = 0x000ffffffffff000;

}  // namespace

PageTableBuilder::PageTableBuilder(MockMemory& memory, Gpa first_table, PagingLevels levels)
    : memory_(memory), root_(first_table), next_table_(first_table + kTableBytes), levels_(levels) {}

Gpa PageTableBuilder::entry_place(Kva kva, std::uint32_t level) {
  Gpa table = root_;
  for (auto at = static_cast<std::uint32_t>(levels_);; --at) {
    const Gpa place = table + (kva.value() >> (9 * at + 3) & 511) * 8;
    if (at <= level) return place;
    auto entry = memory_.value_at<std::uint64_t>(place);
    if (entry == 0) {
      entry = next_table_.value() | kUsual;
      memory_.write_value(place, entry);
      next_table_ += kTableBytes;
    }
    table = Gpa(entry & kAddressField);
  }
}

void PageTableBuilder::map(Kva kva, Gpa gpa, Page page, std::uint64_t flags) {
  const auto level = static_cast<std::uint32_t>(page);
  memory_.write_value(entry_place(kva, level), gpa.value() | flags | (level > 1 ? kPageSizeFlag : 0));
}

}  // namespace ktstr
