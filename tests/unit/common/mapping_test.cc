#include "common/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <gtest/gtest.h>

#include "common/unique_fd.h"
#include "tests/unit/common/scratch_dir.h"

namespace ktstr {
namespace {

constexpr std::size_t kPage = 4096;

Mapping map_page() {
  auto mapping = Mapping::map(-1, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  EXPECT_TRUE(mapping);
  return mapping ? std::move(*mapping) : Mapping();
}

// msync(2) fails with ENOMEM for memory that is not mapped.
bool is_mapped(const void* address) {
  return ::msync(const_cast<void*>(address), kPage, MS_ASYNC) == 0;
}

TEST(Mapping, IsEmptyByDefault) {
  const Mapping mapping;
  EXPECT_EQ(mapping.size(), 0U);
  EXPECT_TRUE(mapping.bytes().empty());
}

TEST(Mapping, UnmapsWhatItHolds) {
  const void* address = nullptr;
  {
    const Mapping mapping = map_page();
    address = mapping.bytes().data();
    ASSERT_TRUE(is_mapped(address));
  }
  EXPECT_FALSE(is_mapped(address));
}

TEST(Mapping, MoveAssignmentUnmapsTheOldAndKeepsTheNew) {
  Mapping target = map_page();
  Mapping source = map_page();
  source.mutable_bytes()[7] = std::byte{42};
  const void* old_address = target.bytes().data();
  const void* new_address = source.bytes().data();
  target = std::move(source);
  EXPECT_FALSE(is_mapped(old_address));
  EXPECT_TRUE(is_mapped(new_address));
  EXPECT_EQ(target.bytes().data(), new_address);
  EXPECT_EQ(target.bytes()[7], std::byte{42});
  EXPECT_EQ(source.size(), 0U);  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_TRUE(source.bytes().empty());
}

TEST(Mapping, MoveAssignmentFromAnEmptyOneUnmaps) {
  Mapping target = map_page();
  const void* address = target.bytes().data();
  target = Mapping();
  EXPECT_FALSE(is_mapped(address));
}

TEST(Mapping, SelfMoveKeepsTheMapping) {
  Mapping mapping = map_page();
  const void* address = mapping.bytes().data();
  Mapping& same = mapping;
  mapping = std::move(same);
  EXPECT_EQ(mapping.bytes().data(), address);
  EXPECT_EQ(mapping.size(), kPage);
  EXPECT_TRUE(is_mapped(address));
}

TEST(Mapping, MoveConstructionEmptiesTheSource) {
  Mapping source = map_page();
  const void* address = source.bytes().data();
  const Mapping target(std::move(source));
  EXPECT_EQ(target.bytes().data(), address);
  EXPECT_EQ(source.size(), 0U);  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
}

TEST(Mapping, MapsAWholeFile) {
  const test::ScratchDir dir;
  const auto mapping = Mapping::map_file(dir.file("f", "hello").c_str());
  ASSERT_TRUE(mapping) << mapping.error().to_string();
  ASSERT_EQ(mapping->size(), 5U);
  EXPECT_EQ(std::memcmp(mapping->bytes().data(), "hello", 5), 0);
}

TEST(Mapping, AnEmptyFileIsAnEmptyMapping) {
  const test::ScratchDir dir;
  const auto mapping = Mapping::map_file(dir.file("empty", "").c_str());
  ASSERT_TRUE(mapping) << mapping.error().to_string();
  EXPECT_EQ(mapping->size(), 0U);
}

TEST(Mapping, MissingFileAndFolderAreUsageErrorsWithThePath) {
  const test::ScratchDir dir;
  const auto missing = Mapping::map_file(dir.path("nothing").c_str());
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::kUsage);
  EXPECT_EQ(missing.error().errno_value(), ENOENT);
  EXPECT_NE(missing.error().to_string().find("nothing"), std::string::npos);

  const auto folder = Mapping::map_file(dir.path("").c_str());
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code(), ErrorCode::kUsage);
}

TEST(Mapping, MoreThanTheAddressSpaceIsAnError) {
  const auto mapping =
      Mapping::map(-1, std::size_t{1} << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  ASSERT_FALSE(mapping);
  EXPECT_EQ(mapping.error().code(), ErrorCode::kHost);
  EXPECT_EQ(mapping.error().errno_value(), ENOMEM);
}

}  // namespace
}  // namespace ktstr
