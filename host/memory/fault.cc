#include "host/memory/fault.h"

#include <string_view>

#include <fmt/format.h>

namespace ktstr {

namespace {

std::string_view reason(Fault::Kind kind) {
  switch (kind) {
    case Fault::Kind::kNotRam:
      return "not RAM";
    case Fault::Kind::kNotMapped:
      return "not mapped";
    case Fault::Kind::kReservedBit:
      return "reserved bits are set";
    case Fault::Kind::kNotCanonical:
      return "not a canonical address";
    case Fault::Kind::kWraps:
      return "goes past the last address";
    case Fault::Kind::kNoPageTables:
      return "page tables are not known";
    case Fault::Kind::kBudget:
      return "the walk's read budget is used up";
    case Fault::Kind::kNotCaptured:
      return "was not copied while the guest stood still";
  }
  return "unknown fault";
}

}  // namespace

std::string Fault::to_string() const {
  std::string text;
  if (access == Access::kTableEntry) {
    text = level == 0 ? std::string("page-table root") : fmt::format("level {} page-table entry", level);
    if (entry != 0) text += fmt::format(" {:#x}", entry);
    if (gpa) text += fmt::format(" at physical {}", *gpa);
    if (kva) text += fmt::format(" for {}", *kva);
  } else {
    text = access == Access::kString ? fmt::format("string of at most {} bytes", size)
                                     : fmt::format("{} byte{}", size, size == 1 ? "" : "s");
    if (kva) text += fmt::format(" at {}", *kva);
    if (kva && gpa) text += fmt::format(" (physical {})", *gpa);
    if (!kva && gpa) text += fmt::format(" at physical {}", *gpa);
  }
  return fmt::format("{}: {}", text, reason(kind));
}

}  // namespace ktstr
