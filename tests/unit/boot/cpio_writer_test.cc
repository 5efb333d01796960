#include "host/boot/cpio_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include <gtest/gtest.h>

namespace ktstr::test {
namespace {

std::string read_back(int fd, std::uint64_t size) {
  std::string bytes(size, '?');
  EXPECT_EQ(::pread(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(size));
  return bytes;
}

TEST(SparseMemfdTest, AnyCutIntoPiecesGivesTheSameFile) {
  // Runs of zeros and of other bytes whose borders lie before, on and behind page borders.
  std::string content;
  for (const std::size_t length : {1UL, 4095UL, 4096UL, 4097UL, 8192UL, 3UL, 20000UL, 4096UL}) {
    content += std::string(length, content.size() % 2 == 0 ? 'x' : 'y');
    content += std::string(length, '\0');
  }
  for (const std::size_t piece : {1UL, 5UL, 4096UL, 4099UL, 100000UL}) {
    auto file = SparseMemfd::create("test");
    ASSERT_TRUE(file);
    for (std::size_t at = 0; at < content.size(); at += piece) {
      const std::string_view part = std::string_view(content).substr(at, piece);
      ASSERT_TRUE(file->write(std::as_bytes(std::span(part))));
    }
    ASSERT_EQ(file->size(), content.size());
    auto fd = file->finish();
    ASSERT_TRUE(fd);
    std::string padded = content;
    padded.resize((padded.size() + 3) / 4 * 4);
    EXPECT_EQ(read_back(fd->get(), file->size()), padded) << piece;
  }
}

TEST(SparseMemfdTest, NothingButZerosKeepsItsSize) {
  auto file = SparseMemfd::create("test");
  ASSERT_TRUE(file);
  const std::string zeros(4096 * 3, '\0');
  ASSERT_TRUE(file->write(std::as_bytes(std::span(zeros))));
  auto fd = file->finish();
  ASSERT_TRUE(fd);
  EXPECT_EQ(read_back(fd->get(), zeros.size()), zeros);
}

}  // namespace
}  // namespace ktstr::test
