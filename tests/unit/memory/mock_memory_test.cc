#include "host/memory/mock_memory.h"

#include <gtest/gtest.h>

#include "host/memory/page_table_builder.h"

namespace ktstr {
namespace {

TEST(MockMemory, KeepsWhatIsWritten) {
  MockMemory mock;
  mock.add_ram(Gpa(0x1000), 0x1000);
  mock.write_value(Gpa(0x1ff8), std::uint64_t{42});
  EXPECT_EQ(mock.value_at<std::uint64_t>(Gpa(0x1ff8)), 42u);
  EXPECT_EQ(mock.value_at<std::uint64_t>(Gpa(0x1ff0)), 0u);
}

TEST(MockMemoryDeathTest, MisuseEndsTheTest) {
  MockMemory mock;
  mock.add_ram(Gpa(0x1000), 0x1000);
  EXPECT_DEATH(mock.write_value(Gpa(0x1ff9), std::uint64_t{42}), "no segment holds 8 bytes at 0x1ff9");
  EXPECT_DEATH(mock.add_ram(Gpa(0x1000), 1), "two segments at 0x1000");
  mock.add_ram(Gpa(0x1800), 1);
  EXPECT_DEATH(mock.memory(), "begins inside the one before it");
}

TEST(PageTableBuilder, SharesTables) {
  MockMemory mock;
  mock.add_ram(Gpa(0), 16 * PageTableBuilder::kTableBytes);
  PageTableBuilder tables(mock, Gpa(0), PagingLevels::kFour);
  tables.map(Kva(0xffff888000000000), Gpa(0x5000));
  tables.map(Kva(0xffff888000001000), Gpa(0x6000));
  EXPECT_EQ(tables.entry_place(Kva(0xffff888000000000), 1) + 8,
            tables.entry_place(Kva(0xffff888000001000), 1));
  EXPECT_EQ(mock.value_at<std::uint64_t>(tables.entry_place(Kva(0xffff888000001000), 1)), 0x6063u);
  EXPECT_EQ(tables.entry_place(Kva(0xffff888000000000), 4), Gpa(273 * 8));
}

}  // namespace
}  // namespace ktstr
