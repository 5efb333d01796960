#include "host/kernel/image_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "common/file_stamp.h"
#include "common/xxh3.h"
#include "host/kernel/bytes.h"
#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;

const std::string kKey(32, 'a');

class ImageCacheTest : public testing::Test {
 protected:
  // Counts how often the kernel had to be unpacked.
  Expected<CachedImage> open(const ImageCache& cache, const std::string& key = kKey) {
    return cache.open(key, [this](const PayloadSink& sink) -> Expected<std::uint64_t> {
      ++unpacked_;
      if (auto ok = sink(bytes_of(contents_)); !ok) return std::unexpected(std::move(ok.error()));
      return contents_.size();
    });
  }

  ScratchDir scratch_;
  std::string folder_ = scratch_.path("cache/images");
  ImageCache cache_{folder_};
  std::string contents_ = std::string(100'000, 'k') + "end";
  int unpacked_ = 0;
};

TEST_F(ImageCacheTest, UnpacksOnce) {
  auto first = open(cache_);
  ASSERT_TRUE(first) << first.error().to_string();
  EXPECT_FALSE(first->from_cache);
  EXPECT_EQ(first->note, "");
  auto second = open(cache_);
  ASSERT_TRUE(second);
  EXPECT_TRUE(second->from_cache);
  EXPECT_EQ(unpacked_, 1);
  EXPECT_TRUE(as_text(second->bytes()) == contents_);
  EXPECT_EQ(second->path, folder_ + "/" + kKey + ".elf");
}

TEST_F(ImageCacheTest, GivesReadOnlyDescriptorsOfReadOnlyFiles) {
  auto image = open(cache_);
  ASSERT_TRUE(image);
  EXPECT_EQ(::fcntl(image->fd.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  struct stat st = {};
  ASSERT_EQ(::fstat(image->fd.get(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0400u);
  std::string begin(10, '\0');
  EXPECT_EQ(::pread(image->fd.get(), begin.data(), begin.size(), 0), 10);
  EXPECT_EQ(begin, contents_.substr(0, 10));
}

TEST_F(ImageCacheTest, MakesDamagedEntriesAnew) {
  const std::string path = open(cache_)->path;
  const auto spoil = [&path](const auto& change) {
    fs::permissions(path, fs::perms::owner_write, fs::perm_options::add);
    change();
    fs::permissions(path, fs::perms::owner_write, fs::perm_options::remove);
  };
  const auto write_at = [&path](std::uintmax_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file.put('\0');
  };
  int expected = 1;
  const auto size = fs::file_size(path);
  const std::vector<std::function<void()>> damages{
      [&] { fs::resize_file(path, size / 2); },
      [&] { fs::resize_file(path, 0); },
      [&] { fs::resize_file(path, 31); },
      [&] { fs::resize_file(path, size + 1); },
      [&] { write_at(5000); },
      [&] { write_at(size - 32); },
      [&] { write_at(size - 24); },
  };
  for (const auto& damage : damages) {
    spoil(damage);
    auto image = open(cache_);
    ASSERT_TRUE(image);
    EXPECT_EQ(unpacked_, ++expected);
    EXPECT_TRUE(as_text(image->bytes()) == contents_);
    EXPECT_TRUE(open(cache_)->from_cache);
  }
}

TEST_F(ImageCacheTest, ReplacesWhatIsNoFile) {
  fs::create_directories(folder_);
  fs::create_symlink("/etc/passwd", folder_ + "/" + kKey + ".elf");
  EXPECT_FALSE(open(cache_)->from_cache);
  EXPECT_EQ(as_text(open(cache_)->bytes()).substr(0, 3), "kkk");
}

TEST_F(ImageCacheTest, EntriesOutliveTheirName) {
  auto image = open(cache_);
  fs::remove_all(folder_);
  EXPECT_TRUE(as_text(image->bytes()) == contents_);
}

TEST_F(ImageCacheTest, FallsBackToMemory) {
  scratch_.file("occupied", "a file, not a folder");
  for (const std::string& folder : {scratch_.path("occupied/images"), std::string()}) {
    auto image = open(ImageCache(folder));
    ASSERT_TRUE(image) << image.error().to_string();
    EXPECT_NE(image->note, "");
    EXPECT_EQ(image->path, "");
    EXPECT_TRUE(as_text(image->bytes()) == contents_);
    EXPECT_EQ(::fcntl(image->fd.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
    // Sealed: not even its owner can change it.
    const UniqueFd writer(
        ::open(("/proc/self/fd/" + std::to_string(image->fd.get())).c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_LT(::write(writer.get(), "x", 1), 0);
  }
}

TEST_F(ImageCacheTest, ReportsWhatUnpackingReports) {
  auto image = cache_.open(kKey, [](const PayloadSink& sink) -> Expected<std::uint64_t> {
    if (auto ok = sink(bytes_of("half a kernel")); !ok) return std::unexpected(std::move(ok.error()));
    return fail(ErrorCode::kUsage, "damaged");
  });
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().message(), "damaged");
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(ImageCacheTest, KeepsTheEntriesUsedLast) {
  const auto key = [](std::size_t i) { return std::string(30, 'b') + std::to_string(10 + i); };
  const auto now = fs::file_time_type::clock::now();
  for (std::size_t i = 0; i < ImageCache::kMaxEntries; ++i) {
    auto image = open(cache_, key(i));
    ASSERT_TRUE(image);
    fs::last_write_time(image->path, now - std::chrono::hours(100 - i));
  }
  ASSERT_TRUE(open(cache_, key(0))->from_cache);  // the oldest one is now the one used last
  std::ofstream(folder_ + "/.new-abandoned") << "x";
  fs::last_write_time(folder_ + "/.new-abandoned", now - std::chrono::hours(2));
  std::ofstream(folder_ + "/.new-in-the-making") << "x";
  ASSERT_TRUE(open(cache_, kKey));
  EXPECT_TRUE(fs::exists(folder_ + "/" + key(0) + ".elf"));
  EXPECT_FALSE(fs::exists(folder_ + "/" + key(1) + ".elf"));
  EXPECT_TRUE(fs::exists(folder_ + "/" + key(2) + ".elf"));
  EXPECT_FALSE(fs::exists(folder_ + "/.new-abandoned"));
  EXPECT_TRUE(fs::exists(folder_ + "/.new-in-the-making"));
}

TEST_F(ImageCacheTest, KeyDependsOnEveryByteAndIsTheSameForFiles) {
  const std::string image = make_bzimage();
  std::string other = image;
  other.back() = 'x';
  EXPECT_EQ(Xxh3::hex_of(bytes_of(image)).size(), 32u);
  EXPECT_NE(Xxh3::hex_of(bytes_of(image)), Xxh3::hex_of(bytes_of(other)));
  const std::string large(1'000'003, 'l');
  const UniqueFd fd(::open(scratch_.file("large", large).c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(Xxh3::hex_of_file(fd.get(), large.size()).value(), Xxh3::hex_of(bytes_of(large)));
  EXPECT_FALSE(Xxh3::hex_of_file(fd.get(), large.size() + 1));
}

// Sets a variable, or unsets it with nullptr, and puts back what was there.
class WithVariable {
 public:
  WithVariable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name); old != nullptr) old_ = old;
    set(value);
  }
  WithVariable(const WithVariable&) = delete;
  WithVariable& operator=(const WithVariable&) = delete;
  ~WithVariable() { set(old_ ? old_->c_str() : nullptr); }

 private:
  void set(const char* value) { value != nullptr ? ::setenv(name_, value, 1) : ::unsetenv(name_); }

  const char* name_;
  std::optional<std::string> old_;
};

TEST_F(ImageCacheTest, FolderFollowsTheEnvironment) {
  const WithVariable home("HOME", "/home/x");
  {
    const WithVariable cache("XDG_CACHE_HOME", "/c");
    EXPECT_EQ(ImageCache::default_folder(), "/c/ktstr-vm/images");
  }
  {
    const WithVariable cache("XDG_CACHE_HOME", "relative");
    EXPECT_EQ(ImageCache::default_folder(), "/home/x/.cache/ktstr-vm/images");
  }
  const WithVariable cache("XDG_CACHE_HOME", nullptr);
  const WithVariable no_home("HOME", nullptr);
  EXPECT_EQ(ImageCache::default_folder(), "");
}

// What is remembered of files (file_stamp.h). Here stamps count at once.
class ImageCacheStampTest : public ImageCacheTest {
 protected:
  static constexpr std::chrono::seconds kAtOnce{-5};

  UniqueFd open_image() const { return UniqueFd(::open(image_.c_str(), O_RDONLY | O_CLOEXEC)); }
  std::string key_of(const ImageCache& cache) const {
    const UniqueFd fd = open_image();
    return cache.key_of(fd.get(), fs::file_size(image_)).value_or("");
  }
  // The only file of that beginning and end; "" when there is none.
  std::string kept(const std::string& begin, const std::string& end) const {
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(begin) && name.ends_with(end)) return entry.path().string();
    }
    return "";
  }
  static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // Replaces the file: the cache's own are read-only.
  static void replace(const std::string& path, const std::string& contents) {
    fs::remove(path);
    std::ofstream(path, std::ios::binary) << contents;
  }

  ImageCache trusting_{folder_, {.entry = kAtOnce, .image = kAtOnce}};
  std::string image_ = scratch_.file("bzImage", std::string(10'000, 'b'));
  std::string hash_ = Xxh3::hex_of(bytes_of(std::string(10'000, 'b')));
};

TEST_F(ImageCacheStampTest, TheHashOfAnImageIsRemembered) {
  fs::create_directories(folder_);
  EXPECT_EQ(key_of(trusting_), hash_);
  const std::string known = kept("known-", "");
  ASSERT_NE(known, "");
  // Another hash in it shows that it is believed.
  std::string planted = read(known);
  ASSERT_TRUE(planted.ends_with(hash_));
  planted.replace(planted.size() - 32, 32, kKey);
  replace(known, planted);
  EXPECT_EQ(key_of(trusting_), kKey);
  // Not for a file of another size, nor for one that was changed just now.
  const UniqueFd fd = open_image();
  EXPECT_EQ(trusting_.key_of(fd.get(), 9'999).value(), Xxh3::hex_of(bytes_of(std::string(9'999, 'b'))));
  EXPECT_EQ(key_of(cache_), hash_);
  // Nor when anything of the stamp differs: each byte of it.
  for (const std::size_t at : {0u, 8u, 16u, 24u, 32u, 40u, 48u, 56u, 64u, 70u}) {
    std::string spoiled = planted;
    spoiled[at] = static_cast<char>(spoiled[at] ^ 1);
    replace(known, spoiled);
    EXPECT_EQ(key_of(trusting_), hash_) << at;
  }
  replace(known, planted.substr(0, planted.size() - 1));
  EXPECT_EQ(key_of(trusting_), hash_);
}

TEST_F(ImageCacheStampTest, TheHashOfAnImageThatChangedIsMadeAgain) {
  fs::create_directories(folder_);
  EXPECT_EQ(key_of(trusting_), hash_);
  std::ofstream(image_, std::ios::app | std::ios::binary) << "x";
  EXPECT_EQ(key_of(trusting_), Xxh3::hex_of(bytes_of(std::string(10'000, 'b') + "x")));
}

TEST_F(ImageCacheStampTest, NothingIsRememberedOfAnImageThatWasJustWritten) {
  fs::create_directories(folder_);
  EXPECT_EQ(key_of(cache_), hash_);
  EXPECT_EQ(kept("known-", ""), "");
  EXPECT_EQ(key_of(ImageCache("")), hash_);
}

TEST_F(ImageCacheStampTest, AVerifiedEntryIsNotReadAgain) {
  ASSERT_TRUE(open(trusting_));
  ASSERT_TRUE(open(trusting_)->from_cache);  // verified
  const std::string use = kept("", ".use");
  ASSERT_NE(use, "");
  const std::string good = read(use);
  EXPECT_TRUE(good.ends_with(kKey));
  // Damage that its stamp does not show is not seen ...
  const std::string entry = kept("", ".elf");
  const auto damage = [&] {
    fs::permissions(entry, fs::perms::owner_all);
    std::fstream file(entry, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5000);
    file << "x";
  };
  damage();
  const UniqueFd fd(::open(entry.c_str(), O_RDONLY | O_CLOEXEC));
  std::string stamped = good;
  const FileStamp stamp = FileStamp::of(fd.get()).value();
  std::memcpy(stamped.data() + 8, &stamp, sizeof stamp);
  replace(use, stamped);
  EXPECT_TRUE(open(trusting_)->from_cache);
  EXPECT_EQ(unpacked_, 1);
  // ... and where the stamp is another, it is: the entry is made anew.
  replace(use, good);
  EXPECT_FALSE(open(trusting_)->from_cache);
  EXPECT_EQ(unpacked_, 2);
}

TEST_F(ImageCacheStampTest, AFreshEntryIsVerifiedEachTime) {
  ASSERT_TRUE(open(cache_));
  ASSERT_TRUE(open(cache_)->from_cache);
  EXPECT_EQ(read(kept("", ".use")), std::string(read(kept("", ".use")).size(), '\0')) << "counts for nothing";
}

TEST_F(ImageCacheStampTest, UsingAnEntryIsItsLastUse) {
  ASSERT_TRUE(open(trusting_));
  ASSERT_TRUE(open(trusting_));
  const std::string use = kept("", ".use");
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(5);
  fs::last_write_time(use, long_ago);
  ASSERT_TRUE(open(trusting_)->from_cache);
  EXPECT_GT(fs::last_write_time(use), long_ago + std::chrono::hours(4));
}

}  // namespace
}  // namespace ktstr::test
