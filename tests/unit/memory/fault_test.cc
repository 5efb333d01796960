#include "host/memory/fault.h"

#include <gtest/gtest.h>

namespace ktstr {
namespace {

TEST(Fault, SaysWhatWasReadWhereAndWhyNot) {
  EXPECT_EQ(
      (Fault{.kind = Fault::Kind::kNotRam, .kva = Kva(0xffff888000001000), .gpa = Gpa(0x1000), .size = 8})
          .to_string(),
      "8 bytes at 0xffff888000001000 (physical 0x1000): not RAM");
  EXPECT_EQ((Fault{.kind = Fault::Kind::kBudget, .kva = {}, .gpa = Gpa(0x10), .size = 1}).to_string(),
            "1 byte at physical 0x10: the walk's read budget is used up");
  EXPECT_EQ((Fault{.kind = Fault::Kind::kWraps,
                   .access = Fault::Access::kString,
                   .kva = Kva(~0ull),
                   .gpa = {},
                   .size = 16})
                .to_string(),
            "string of at most 16 bytes at 0xffffffffffffffff: goes past the last address");
}

TEST(Fault, NamesThePageTableEntry) {
  Fault fault{.kind = Fault::Kind::kReservedBit,
              .access = Fault::Access::kTableEntry,
              .kva = Kva(0x1000),
              .gpa = Gpa(0x2008),
              .size = 8,
              .level = 2,
              .entry = 0x2083};
  EXPECT_EQ(fault.to_string(),
            "level 2 page-table entry 0x2083 at physical 0x2008 for 0x1000: reserved bits are set");
  fault.level = 0;
  fault.entry = 0;
  EXPECT_EQ(fault.to_string(), "page-table root at physical 0x2008 for 0x1000: reserved bits are set");
}

TEST(Fault, EveryKindHasItsOwnWords) {
  std::string before;
  for (int kind = 0; kind <= static_cast<int>(Fault::Kind::kBudget); ++kind) {
    const std::string text = Fault{.kind = static_cast<Fault::Kind>(kind), .kva = {}, .gpa = {}}.to_string();
    EXPECT_EQ(text.find("unknown"), std::string::npos) << text;
    EXPECT_NE(text, before);
    before = text;
  }
}

}  // namespace
}  // namespace ktstr
