#include "host/boot/ld_cache.h"

#include <cstring>
#include <span>

#include <gmock/gmock.h>

#include "tests/unit/boot/boot_fixture.h"

namespace ktstr::test {
namespace {

using ::testing::HasSubstr;

class LdCacheTest : public BootTest {
 protected:
  static Expected<LdCache> parse(const std::string& bytes) {
    return LdCache::parse(std::as_bytes(std::span(bytes)), "cache");
  }
  static std::string good() {
    return LdCache::encode({{"liba.so.1", "/lib/liba.so.1"}, {"libb.so.2", "/opt/libb.so.2"}});
  }
  template <typename T>
  static std::string with(std::string bytes, std::size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return bytes;
  }
};

constexpr std::size_t kCount = 20;
constexpr std::size_t kExtension = 32;
constexpr std::size_t kFirstEntry = 48;
constexpr std::size_t kEntry = 24;

TEST_F(LdCacheTest, RoundTrip) {
  const auto cache = parse(good());
  ASSERT_TRUE(cache) << cache.error().to_string();
  EXPECT_EQ(cache->find("liba.so.1"), "/lib/liba.so.1");
  EXPECT_EQ(cache->find("libb.so.2"), "/opt/libb.so.2");
  EXPECT_EQ(cache->find("libc.so"), "");
  EXPECT_EQ(cache->size(), 2U);
}

TEST_F(LdCacheTest, LdconfigReadsWhatEncodeWrites) {
  if (!have("/sbin/ldconfig")) GTEST_SKIP() << "no ldconfig";
  const auto listed = run("/sbin/ldconfig -p -C " + write("cache", good()));
  EXPECT_THAT(listed.output, HasSubstr("2 libs found in cache"));
  EXPECT_THAT(listed.output, HasSubstr("liba.so.1 (libc6,x86-64) => /lib/liba.so.1"));
}

TEST_F(LdCacheTest, KnowsWhatLdconfigKnows) {
  if (!have("/etc/ld.so.cache") || !have("/sbin/ldconfig")) GTEST_SKIP() << "no ld.so.cache";
  const auto cache = LdCache::read("/etc/ld.so.cache");
  ASSERT_TRUE(cache) << cache.error().to_string();
  const auto listed = run("/sbin/ldconfig -p").output;
  EXPECT_THAT(listed, HasSubstr("libc.so.6 (libc6,x86-64) => " + cache->find("libc.so.6")));
  EXPECT_GT(cache->size(), 10U);
}

TEST_F(LdCacheTest, MissingFileIsEmpty) {
  const auto cache = LdCache::read(path("nothing"));
  ASSERT_TRUE(cache);
  EXPECT_EQ(cache->size(), 0U);
}

TEST_F(LdCacheTest, OtherArchitecturesArePassedOver) {
  // 0x0803 is x32, 3 is i386.
  for (const std::uint32_t flags : {0x0803U, 3U, 0U}) {
    const auto cache = parse(with(good(), kFirstEntry, flags));
    ASSERT_TRUE(cache);
    EXPECT_EQ(cache->size(), 1U);
  }
}

TEST_F(LdCacheTest, BaselineWinsOverVariantsForNewerCpus) {
  // Three entries for one name; the extension block names "x86-64-v3" and "x86-64-v2".
  std::string bytes = LdCache::encode({{"a", "/v3"}, {"b", "/v2"}, {"c", "/base"}});
  const auto find_string = [&](const std::string& text) {
    return static_cast<std::uint32_t>(bytes.find(text + std::string(1, '\0'), kFirstEntry + 3 * kEntry));
  };
  const auto name = find_string("a");
  const auto v3 = find_string("/v3");
  const auto v2 = find_string("/v2");
  const auto base = find_string("/base");
  const std::uint64_t bit = std::uint64_t{1} << 62;
  const auto entry = [&](std::size_t i, std::uint32_t value, std::uint64_t hwcap) {
    bytes = with(bytes, kFirstEntry + i * kEntry + 4, name);
    bytes = with(bytes, kFirstEntry + i * kEntry + 8, value);
    bytes = with(bytes, kFirstEntry + i * kEntry + 16, hwcap);
  };
  entry(0, v3, bit | 0);
  entry(1, v2, bit | 1);
  entry(2, base, 0);
  const auto strings = static_cast<std::uint32_t>(bytes.size());
  bytes += std::string("x86-64-v3") + '\0' + "x86-64-v2" + '\0';
  const auto extension = static_cast<std::uint32_t>(bytes.size());
  bytes = with(bytes, kExtension, extension);
  for (const std::uint32_t word : {0xeaa42174U, 1U, 1U, 0U, extension + 24, 8U, strings, strings + 10}) {
    bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  auto cache = parse(bytes);
  ASSERT_TRUE(cache) << cache.error().to_string();
  EXPECT_EQ(cache->find("a"), "/base");
  // Without a baseline the least demanding one.
  cache = parse(with(bytes, kFirstEntry + 2 * kEntry, std::uint32_t{0}));
  ASSERT_TRUE(cache);
  EXPECT_EQ(cache->find("a"), "/v2");
  // An entry that refers to a folder which is not in the list.
  EXPECT_FALSE(parse(with(bytes, kFirstEntry + 16, bit | 7)));
}

TEST_F(LdCacheTest, OldTableInFrontIsSkipped) {
  std::string old = "ld.so-1.7.0";
  old += '\0';
  const std::uint32_t count = 1;
  old.append(reinterpret_cast<const char*>(&count), sizeof count);
  old.resize(old.size() + 12 + 4);  // one entry, then alignment to 8
  const auto cache = parse(old + good());
  ASSERT_TRUE(cache) << cache.error().to_string();
  EXPECT_EQ(cache->find("libb.so.2"), "/opt/libb.so.2");
  EXPECT_FALSE(parse(old));
}

TEST_F(LdCacheTest, HostileCachesAreRefused) {
  EXPECT_THAT(parse("").error().message(), HasSubstr("shorter than a header"));
  EXPECT_THAT(parse(std::string(100, 'x')).error().message(), HasSubstr("does not start with"));
  EXPECT_THAT(parse(with(good(), kCount, 0xffff'ffffU)).error().message(),
              HasSubstr("claims 4294967295 entries"));
  EXPECT_THAT(parse(with(good(), kCount, 1000U)).error().message(), HasSubstr("claims 1000 entries"));
  EXPECT_FALSE(parse(with(good(), kFirstEntry + 4, 0xffff'fff0U)));
  EXPECT_FALSE(parse(with(good(), kFirstEntry + 8, 0xffff'fff0U)));
  EXPECT_FALSE(parse(with(good(), kExtension, 0xffff'fff0U)));
  EXPECT_FALSE(parse(with(good(), kExtension, 4U)));
  std::string unterminated = good();
  unterminated.pop_back();
  EXPECT_THAT(parse(unterminated).error().message(), HasSubstr("has no end"));
}

TEST_F(LdCacheTest, SurvivesEveryTruncationAndEveryDamagedByte) {
  const std::string bytes = good();
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(parse(bytes.substr(0, size))) << size;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (const char value : {'\0', '\x40', '\xff'}) {
      std::string damaged = bytes;
      damaged[at] = value;
      (void)parse(damaged);
    }
  }
}

}  // namespace
}  // namespace ktstr::test
