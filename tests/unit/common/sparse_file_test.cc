#include "common/sparse_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/mapping.h"
#include "common/unique_fd.h"
#include "tests/unit/common/scratch_dir.h"

namespace ktstr::test {
namespace {

constexpr std::size_t kPage = SparseChecksum::kPage;
constexpr std::size_t kMiB = std::size_t{1} << 20;

using Bytes = std::vector<std::byte>;

class SparseFileTest : public testing::Test {
 protected:
  UniqueFd create(const char* name) const {
    return UniqueFd(::open(scratch_.path(name).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  }
  static struct stat facts(int fd) {
    struct stat st = {};
    EXPECT_EQ(::fstat(fd, &st), 0);
    return st;
  }
  static Bytes contents(int fd) {
    Bytes bytes(static_cast<std::size_t>(facts(fd).st_size));
    EXPECT_EQ(::pread(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
  static std::string checksum_of(const Bytes& bytes) {
    SparseChecksum checksum;
    checksum.add(0, bytes);
    return checksum.finish(bytes.size());
  }
  // Pages of zeros, in which these bytes are set.
  static Bytes pages(std::size_t count, std::initializer_list<std::size_t> set) {
    Bytes bytes(count * kPage);
    for (const std::size_t at : set) bytes[at] = std::byte{0x5a};
    return bytes;
  }

  ScratchDir scratch_;
};

TEST_F(SparseFileTest, ReadsBackAsItWasAndHasHolesForZeros) {
  // The first and the last byte of a page, and runs that cross the pieces of 1 MiB.
  Bytes memory = pages(1024, {0, 3 * kPage - 1, 700 * kPage});
  std::fill(memory.begin() + kMiB - 2 * kPage, memory.begin() + kMiB + 3 * kPage, std::byte{7});
  const UniqueFd fd = create("ram");
  SparseWriter writer(fd.get());
  ASSERT_TRUE(writer.append(memory));
  const auto written = writer.finish();
  ASSERT_TRUE(written);
  EXPECT_EQ(written->size, memory.size());
  EXPECT_EQ(written->data, 8 * kPage);
  EXPECT_EQ(contents(fd.get()), memory);
  EXPECT_LE(facts(fd.get()).st_blocks * 512, 64 * 4096) << "holes take no room";
  EXPECT_EQ(written->checksum, checksum_of(memory));
  EXPECT_EQ(sparse_checksum(fd.get(), memory.size()), written->checksum);
}

TEST_F(SparseFileTest, RangesStandOneBehindTheOther) {
  const Bytes first = pages(300, {5 * kPage});
  const Bytes second = pages(2, {0, kPage});
  Bytes both = first;
  both.insert(both.end(), second.begin(), second.end());
  const UniqueFd fd = create("ram");
  SparseWriter writer(fd.get());
  ASSERT_TRUE(writer.append(first));
  ASSERT_TRUE(writer.append(second));
  const auto written = writer.finish();
  ASSERT_TRUE(written);
  EXPECT_EQ(contents(fd.get()), both);
  EXPECT_EQ(written->checksum, checksum_of(both));
}

TEST_F(SparseFileTest, MemoryThatIsAllZerosIsOneHole) {
  const auto memory =
      Mapping::map(-1, 8 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  ASSERT_TRUE(memory);
  const UniqueFd fd = create("ram");
  SparseWriter writer(fd.get());
  ASSERT_TRUE(writer.append(memory->bytes()));
  const auto written = writer.finish();
  ASSERT_TRUE(written);
  EXPECT_EQ(written->data, 0U);
  EXPECT_EQ(facts(fd.get()).st_size, static_cast<off_t>(8 * kMiB));
  EXPECT_EQ(facts(fd.get()).st_blocks, 0);
}

TEST_F(SparseFileTest, CopiesAMemfdWithoutTouchingItsHoles) {
  const UniqueFd source(::memfd_create("test", MFD_CLOEXEC));
  const Bytes page = pages(1, {17});
  ASSERT_EQ(::ftruncate(source.get(), 8 * kMiB), 0);
  for (const off_t at : {off_t{0}, off_t{3 * kMiB - kPage}, off_t{3 * kMiB}})
    ASSERT_EQ(::pwrite(source.get(), page.data(), page.size(), at), static_cast<ssize_t>(page.size()));
  const auto blocks = facts(source.get()).st_blocks;
  const UniqueFd fd = create("ram");
  SparseWriter writer(fd.get());
  ASSERT_TRUE(writer.append(page));
  ASSERT_TRUE(writer.append_file(source.get(), 8 * kMiB));
  ASSERT_TRUE(writer.append(page));
  const auto written = writer.finish();
  ASSERT_TRUE(written);
  EXPECT_EQ(facts(source.get()).st_blocks, blocks);
  Bytes expected = page;
  const Bytes middle = contents(source.get());
  expected.insert(expected.end(), middle.begin(), middle.end());
  expected.insert(expected.end(), page.begin(), page.end());
  EXPECT_EQ(contents(fd.get()), expected);
  EXPECT_EQ(written->checksum, checksum_of(expected));
  EXPECT_EQ(written->data, 5 * kPage);
}

TEST_F(SparseFileTest, PartOfAFileBetweenZeros) {
  const UniqueFd source(::memfd_create("test", MFD_CLOEXEC));
  const Bytes all = pages(6, {kPage, 2 * kPage, 4 * kPage, 5 * kPage});
  ASSERT_EQ(::pwrite(source.get(), all.data(), all.size(), 0), static_cast<ssize_t>(all.size()));
  const UniqueFd fd = create("ram");
  SparseWriter writer(fd.get());
  writer.skip(3 * kPage);
  ASSERT_TRUE(writer.append_file(source.get(), 3 * kPage, 2 * kPage));
  writer.skip(2 * kPage);
  EXPECT_FALSE(SparseWriter(fd.get()).append_file(source.get(), 3 * kPage, 4 * kPage));
  const auto written = writer.finish();
  ASSERT_TRUE(written);
  Bytes expected(3 * kPage);
  expected.insert(expected.end(), all.begin() + 2 * kPage, all.begin() + 5 * kPage);
  expected.resize(8 * kPage);
  EXPECT_EQ(contents(fd.get()), expected);
  EXPECT_EQ(written->checksum, checksum_of(expected));
  EXPECT_EQ(written->data, 2 * kPage);
}

TEST_F(SparseFileTest, ChecksumDoesNotDependOnPiecesOrHoles) {
  const Bytes memory = pages(600, {0, kPage, 299 * kPage, 300 * kPage, 599 * kPage + 1});
  const std::string expected = checksum_of(memory);
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{300}}) {
    SparseChecksum checksum;
    for (std::size_t page = 0; page < 600; page += piece) {
      const std::size_t count = std::min(piece, 600 - page);
      checksum.add(page * kPage, std::span(memory).subspan(page * kPage, count * kPage));
    }
    EXPECT_EQ(checksum.finish(memory.size()), expected) << piece;
  }
  const UniqueFd dense = create("dense");
  ASSERT_EQ(::pwrite(dense.get(), memory.data(), memory.size(), 0), static_cast<ssize_t>(memory.size()));
  EXPECT_EQ(sparse_checksum(dense.get(), memory.size()), expected);
}

TEST_F(SparseFileTest, ChecksumTellsPlaceValueAndSizeApart) {
  std::set<std::string> checksums{
      checksum_of(pages(4, {})),
      checksum_of(pages(5, {})),
      checksum_of(pages(4, {0})),
      checksum_of(pages(4, {1})),
      checksum_of(pages(4, {kPage})),
      checksum_of(pages(4, {0, kPage})),
      checksum_of(pages(4, {0, 2 * kPage})),
      checksum_of(pages(4, {0, kPage, 2 * kPage})),
  };
  EXPECT_EQ(checksums.size(), 8U);
}

TEST_F(SparseFileTest, EndsInTheMiddleOfAPage) {
  const UniqueFd fd = create("odd");
  const std::string text(10'000, 'x');
  ASSERT_EQ(::pwrite(fd.get(), text.data(), text.size(), 0), 10'000);
  SparseChecksum checksum;
  checksum.add(0, std::as_bytes(std::span(text)));
  EXPECT_EQ(sparse_checksum(fd.get(), text.size()), checksum.finish(text.size()));
}

TEST_F(SparseFileTest, FileThatIsTooShortIsTheFilesFault) {
  const UniqueFd fd = create("short");
  ASSERT_EQ(::ftruncate(fd.get(), 2 * kPage), 0);
  const auto checksum = sparse_checksum(fd.get(), 3 * kPage);
  ASSERT_FALSE(checksum);
  EXPECT_EQ(checksum.error().code(), ErrorCode::kUsage);
  EXPECT_EQ(checksum.error().message(), "the file has 8192 bytes instead of 12288");
}

TEST_F(SparseFileTest, LimitOfFileSizesIsAnErrorAndNoSignal) {
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {64 * kPage, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Bytes memory = pages(65, {0});
  const UniqueFd fd = create("ram");
  SparseWriter data(fd.get());
  const auto appended = data.append(memory);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(appended);
  EXPECT_EQ(appended.error().code(), ErrorCode::kHost);
  EXPECT_EQ(appended.error().errno_value(), EFBIG);
  EXPECT_EQ(appended.error().message(),
            "files may have at most 256 KiB here (ulimit -f), and 260 KiB are needed: File too large");
}

}  // namespace
}  // namespace ktstr::test
