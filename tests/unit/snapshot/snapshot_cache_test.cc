#include "host/snapshot/snapshot_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "common/mapping.h"
#include "host/snapshot/snapshot_manifest.h"
#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/snapshot/sample_snapshot.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;

class SnapshotCacheTest : public testing::Test {
 protected:
  std::string root() const { return scratch_.path("cache/snapshots"); }
  std::string file(const std::string& key, const char* name) const { return root() + "/" + key + "/" + name; }
  SnapshotCache::Found find(const std::string& key) const {
    auto found = cache_.find(key);
    EXPECT_TRUE(found) << found.error().to_string();
    return found ? std::move(*found) : SnapshotCache::Found();
  }
  // What is said about a snapshot that is of no use; afterwards it must be gone, and can be made anew.
  std::string thrown_away(const std::string& key) const {
    const auto found = find(key);
    EXPECT_FALSE(found.snapshot);
    EXPECT_THAT(names(), ElementsAre("lock"));
    EXPECT_EQ(find(key).thrown_away, "") << "it is said once";
    make_snapshot(cache_, sample_inputs());
    EXPECT_TRUE(find(key).snapshot);
    return found.thrown_away;
  }
  std::vector<std::string> names() const {
    auto names = std::vector<std::string>();
    for (const auto& entry : fs::directory_iterator(root())) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> keys;
    const auto entries = cache_.list();
    for (const auto& entry : *entries) keys.push_back(entry.key);
    std::sort(keys.begin(), keys.end());
    return keys;
  }
  // As if it had been used `minute` minutes after the epoch.
  void set_used(const std::string& key, int minute) const {
    const timespec times[2] = {{minute * 60, 0}, {minute * 60, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, file(key, "use").c_str(), times, 0), 0);
  }

  ScratchDir scratch_;
  SnapshotCache cache_{root()};
};

TEST_F(SnapshotCacheTest, FindsWhatWasCommitted) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  auto found = find(key);
  EXPECT_EQ(found.thrown_away, "");
  ASSERT_TRUE(found.snapshot);
  const Snapshot& snapshot = *found.snapshot;
  EXPECT_EQ(snapshot.manifest.key(), key);
  EXPECT_EQ(snapshot.manifest.facts().kernel_release(), "6.12.1-test");
  EXPECT_EQ(snapshot.manifest.ram().size(), kSampleRam);
  EXPECT_THAT(snapshot.manifest.made_at(), HasSubstr("T"));
  const auto ram = Mapping::map(snapshot.ram.get(), kSampleRam, PROT_READ, MAP_PRIVATE);
  ASSERT_TRUE(ram);
  EXPECT_TRUE(std::ranges::equal(ram->bytes(), sample_ram()));
  EXPECT_EQ(read_all(file(key, "state")), kSampleState);
  EXPECT_EQ(::write(snapshot.ram.get(), "x", 1), -1) << "read-only";
  EXPECT_THAT(names(), ElementsAre(key, "lock"));
}

TEST_F(SnapshotCacheTest, AnEmptyCacheIsNoError) {
  const auto found = find(snapshot_key(sample_inputs()));
  EXPECT_FALSE(found.snapshot);
  EXPECT_EQ(found.thrown_away, "");
  EXPECT_THAT(cache_.list().value(), IsEmpty());
  EXPECT_THAT(cache_.verify().value(), IsEmpty());
  EXPECT_THAT(cache_.clear({}).value().removed, IsEmpty());
  EXPECT_FALSE(cache_.nearest(sample_inputs()));
  EXPECT_THAT(cache_.why_none(sample_inputs()), StartsWith("there is no snapshot in '"));
  EXPECT_FALSE(fs::exists(root())) << "looking makes nothing";
}

TEST_F(SnapshotCacheTest, ChecksumOfRamIsComputedWhenTheCallerHasNone) {
  auto begun = cache_.begin(sample_inputs());
  ASSERT_TRUE(begun && begun->writer);
  const std::string checksum = fill(*begun->writer);
  ASSERT_TRUE(begun->writer->commit(sample_manifest()));
  EXPECT_EQ(find(snapshot_key(sample_inputs())).snapshot->manifest.ram().checksum(), checksum);
}

TEST_F(SnapshotCacheTest, FilesMayBeFilledByPath) {
  auto begun = cache_.begin(sample_inputs());
  ASSERT_TRUE(begun && begun->writer);
  for (const std::string& path : {begun->writer->ram_path(), begun->writer->state_path()})
    std::ofstream(path, std::ios::binary | std::ios::trunc) << std::string(5000, 'x');
  ASSERT_TRUE(begun->writer->commit(sample_manifest()));
  EXPECT_EQ(read_all(file(snapshot_key(sample_inputs()), "state")), std::string(5000, 'x'));
}

TEST_F(SnapshotCacheTest, WriterThatEndsEarlyLeavesNothing) {
  {
    auto begun = cache_.begin(sample_inputs());
    ASSERT_TRUE(begun && begun->writer);
    fill(*begun->writer);
    EXPECT_THAT(names(), SizeIs(2));
  }
  EXPECT_THAT(names(), ElementsAre("lock"));
}

TEST_F(SnapshotCacheTest, EmptyFilesAreNotStored) {
  {
    auto begun = cache_.begin(sample_inputs());
    ASSERT_TRUE(begun && begun->writer);
    const auto committed = begun->writer->commit(sample_manifest());
    ASSERT_FALSE(committed);
    EXPECT_EQ(committed.error().code(), ErrorCode::kHost);
    EXPECT_EQ(committed.error().message(), "the snapshot's ram is empty");
  }
  EXPECT_THAT(names(), ElementsAre("lock"));
}

TEST_F(SnapshotCacheTest, FileThatSomebodyStillWritesIsNotStored) {
  auto begun = cache_.begin(sample_inputs());
  ASSERT_TRUE(begun && begun->writer);
  const std::string checksum = fill(*begun->writer);
  auto mapping = [&] {
    const UniqueFd fd(::open(begun->writer->ram_path().c_str(), O_RDWR | O_CLOEXEC));
    return Mapping::map(fd.get(), kSampleRam, PROT_READ | PROT_WRITE, MAP_SHARED);
  }();
  ASSERT_TRUE(mapping);
  const auto committed = begun->writer->commit(sample_manifest(), checksum);
  ASSERT_FALSE(committed);
  EXPECT_EQ(committed.error().message(), "the snapshot's ram is still open for writing");
}

TEST_F(SnapshotCacheTest, TruncatedRamIsThrownAway) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  ASSERT_EQ(::truncate(file(key, "ram").c_str(), kSampleRam - 4096), 0);
  EXPECT_EQ(thrown_away(key), "the snapshot " + key.substr(0, 8) +
                                  " was thrown away: its ram has 3141632 bytes instead of 3145728");
}

TEST_F(SnapshotCacheTest, FlippedByteInRamIsThrownAway) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  flip_byte(file(key, "ram"), (1 << 20) + 4711);
  EXPECT_THAT(thrown_away(key), HasSubstr("the checksum of its ram does not match"));
}

TEST_F(SnapshotCacheTest, ByteInAHoleOfRamIsNoticedAsWell) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  flip_byte(file(key, "ram"), 17);
  EXPECT_THAT(thrown_away(key), HasSubstr("the checksum of its ram does not match"));
}

TEST_F(SnapshotCacheTest, FlippedByteInTheStateIsThrownAway) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  flip_byte(file(key, "state"), 3);
  EXPECT_THAT(thrown_away(key), HasSubstr("the checksum of its state does not match"));
}

TEST_F(SnapshotCacheTest, FlippedByteInTheManifestIsThrownAway) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  flip_byte(file(key, "manifest"), 100);
  EXPECT_THAT(thrown_away(key), HasSubstr("the manifest is damaged: its checksum does not match"));
}

TEST_F(SnapshotCacheTest, MissingFilesAreThrownAway) {
  for (const char* name : {"manifest", "ram", "state", "lock"}) {
    const std::string key = make_snapshot(cache_, sample_inputs());
    ASSERT_EQ(::unlink(file(key, name).c_str()), 0);
    EXPECT_THAT(thrown_away(key), HasSubstr(name));
    ASSERT_TRUE(cache_.clear({}));
  }
}

TEST_F(SnapshotCacheTest, FileOfAnotherKindIsThrownAway) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  ASSERT_EQ(::unlink(file(key, "ram").c_str()), 0);
  ASSERT_EQ(::mkfifo(file(key, "ram").c_str(), 0600), 0);
  EXPECT_THAT(thrown_away(key), HasSubstr("is not one of our files"));
}

TEST_F(SnapshotCacheTest, SomethingElseOfThatNameIsThrownAway) {
  make_snapshot(cache_, numbered_inputs(1));
  ASSERT_TRUE(cache_.clear({}));
  const std::string key = snapshot_key(sample_inputs());
  std::ofstream(root() + "/" + key) << "text";
  EXPECT_THAT(thrown_away(key), HasSubstr("it is no folder"));
}

TEST_F(SnapshotCacheTest, LinkToAnotherFolderIsThrownAwayAndNotFollowed) {
  const std::string other = make_snapshot(cache_, numbered_inputs(1));
  const std::string elsewhere = scratch_.path("elsewhere");
  fs::rename(root() + "/" + other, elsewhere);
  const std::string key = snapshot_key(sample_inputs());
  fs::create_directory_symlink(elsewhere, root() + "/" + key);
  EXPECT_THAT(thrown_away(key), HasSubstr("it is no folder"));
  EXPECT_TRUE(fs::exists(elsewhere + "/ram"));
}

TEST_F(SnapshotCacheTest, SnapshotOfOtherInputsIsThrownAway) {
  const std::string other = make_snapshot(cache_, numbered_inputs(1));
  const std::string key = snapshot_key(sample_inputs());
  fs::rename(root() + "/" + other, root() + "/" + key);
  EXPECT_THAT(thrown_away(key), HasSubstr("it is the snapshot of other inputs"));
}

TEST_F(SnapshotCacheTest, RamIsReadAgainOnlyWhenTheFileWasTouched) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  // What `use` says is believed: with another checksum in it, it is not about this file.
  ASSERT_TRUE(find(key).snapshot);
  const std::string noted = read_all(file(key, "use"));
  ASSERT_TRUE(find(key).snapshot);
  EXPECT_EQ(read_all(file(key, "use")), noted);
  ASSERT_EQ(::utimensat(AT_FDCWD, file(key, "ram").c_str(), nullptr, 0), 0);
  ASSERT_TRUE(find(key).snapshot);
  EXPECT_NE(read_all(file(key, "use")), noted) << "the stamp is too fresh to be relied upon, so none is kept";
}

TEST_F(SnapshotCacheTest, RamThatIsNotedAsWholeIsNotRead) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  // A file that has the stamp and not the contents: the note is made to fit the damaged file.
  flip_byte(file(key, "ram"), 1 << 20);
  SnapshotFolder folder;
  std::string reason;
  ASSERT_TRUE(SnapshotFolder::open(root() + "/" + key, folder, reason));
  {
    const UniqueFd ram(::open(file(key, "ram").c_str(), O_RDONLY | O_CLOEXEC));
    note_verified(folder, ram.get(), read_manifest(folder)->ram().checksum());
  }
  EXPECT_TRUE(find(key).snapshot);
  const auto verified = cache_.verify();
  ASSERT_TRUE(verified);
  ASSERT_THAT(*verified, SizeIs(1));
  EXPECT_FALSE((*verified)[0].whole) << "verify believes no note";
  EXPECT_THAT((*verified)[0].problem, HasSubstr("the checksum of its ram does not match"));
}

TEST_F(SnapshotCacheTest, UsingASnapshotIsNoted) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  set_used(key, 1);
  EXPECT_EQ(cache_.list()->at(0).last_used_ns, 60'000'000'000);
  ASSERT_TRUE(find(key).snapshot);
  EXPECT_GT(cache_.list()->at(0).last_used_ns, 60'000'000'000);
}

TEST_F(SnapshotCacheTest, OneThatExistsIsNotMadeAgain) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  const auto begun = cache_.begin(sample_inputs());
  ASSERT_TRUE(begun);
  EXPECT_FALSE(begun->writer);
  EXPECT_EQ(begun->reason, "another process has made the snapshot " + key.substr(0, 8) + " meanwhile");
}

TEST_F(SnapshotCacheTest, OneThatIsBeingMadeIsNotMadeTwice) {
  const auto first = cache_.begin(sample_inputs());
  ASSERT_TRUE(first && first->writer);
  const auto second = cache_.begin(sample_inputs());
  ASSERT_TRUE(second);
  EXPECT_FALSE(second->writer);
  EXPECT_EQ(second->reason, "process " + std::to_string(::getpid()) + " is making the snapshot " +
                                snapshot_key(sample_inputs()).substr(0, 8));
  const auto other = cache_.begin(numbered_inputs(1));
  ASSERT_TRUE(other);
  EXPECT_TRUE(other->writer) << "another one may be made at the same time";
  const auto entries = cache_.list();
  ASSERT_TRUE(entries);
  ASSERT_THAT(*entries, SizeIs(2));
  EXPECT_TRUE(entries->at(0).being_made);
  EXPECT_EQ(entries->at(0).maker, "process " + std::to_string(::getpid()));
}

// Each takes 1 MiB and some blocks for what is beside the RAM.
TEST_F(SnapshotCacheTest, TheOneUsedLongestAgoGoesFirst) {
  constexpr std::size_t kData = 1 << 20;
  const SnapshotCache small(root(), (3 << 20) + (512 << 10));
  std::vector<std::string> made;
  for (int i = 0; i < 3; ++i) made.push_back(make_snapshot(small, numbered_inputs(i), kData));
  set_used(made[0], 2);
  set_used(made[1], 1);
  set_used(made[2], 3);
  const std::string last = make_snapshot(small, numbered_inputs(3), kData);
  EXPECT_THAT(keys(), testing::UnorderedElementsAre(made[0], made[2], last));
  EXPECT_THAT(names(), SizeIs(4)) << "nothing is left of the removed one";
}

TEST_F(SnapshotCacheTest, OneThatIsInUseStays) {
  constexpr std::size_t kData = 1 << 20;
  const SnapshotCache small(root(), (2 << 20) + (512 << 10));
  const std::string first = make_snapshot(small, numbered_inputs(0), kData);
  const std::string second = make_snapshot(small, numbered_inputs(1), kData);
  const auto used = find(first);
  ASSERT_TRUE(used.snapshot);
  set_used(first, 1);
  set_used(second, 2);
  const std::string third = make_snapshot(small, numbered_inputs(2), kData);
  EXPECT_THAT(keys(), testing::UnorderedElementsAre(first, third));
  EXPECT_TRUE(find(first).snapshot);
}

TEST_F(SnapshotCacheTest, AboveTheLimitForThoseInUseUntilTheNextOne) {
  constexpr std::size_t kData = 1 << 20;
  const SnapshotCache small(root(), (1 << 20) + (512 << 10));
  const std::string first = make_snapshot(small, numbered_inputs(0), kData);
  std::string second;
  {
    const auto used = find(first);
    ASSERT_TRUE(used.snapshot);
    second = make_snapshot(small, numbered_inputs(1), kData);
    EXPECT_THAT(keys(), SizeIs(2));
  }
  set_used(second, 1);
  const auto begun = small.begin(numbered_inputs(2));
  ASSERT_TRUE(begun && begun->writer);
  EXPECT_FALSE(fs::exists(root() + "/" + second));
  EXPECT_TRUE(fs::exists(root() + "/" + first));
}

TEST_F(SnapshotCacheTest, OneThatIsLargerThanTheCacheIsNotStored) {
  const SnapshotCache small(root(), 512 << 10);
  const std::string kept = make_snapshot(small, numbered_inputs(0));
  {
    auto begun = small.begin(sample_inputs());
    ASSERT_TRUE(begun && begun->writer);
    fill(*begun->writer, 1 << 20);
    const auto committed = begun->writer->commit(sample_manifest());
    ASSERT_FALSE(committed);
    EXPECT_EQ(committed.error().code(), ErrorCode::kHost);
    EXPECT_THAT(committed.error().message(), HasSubstr("and the whole cache may have 512 KiB"));
  }
  EXPECT_THAT(names(), ElementsAre(kept, "lock"));
}

TEST_F(SnapshotCacheTest, PlaceThatIsNoFolderIsAnError) {
  scratch_.file("plain", "text");
  const SnapshotCache cache(scratch_.path("plain"));
  const auto begun = cache.begin(sample_inputs());
  ASSERT_FALSE(begun);
  EXPECT_EQ(begun.error().code(), ErrorCode::kHost);
  EXPECT_THAT(begun.error().message(), HasSubstr("cannot make the cache folder"));
  const auto found = cache.find(snapshot_key(sample_inputs()));
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().errno_value(), ENOTDIR);
  const SnapshotCache deeper(scratch_.path("plain") + "/snapshots");
  EXPECT_FALSE(deeper.begin(sample_inputs()));
}

TEST_F(SnapshotCacheTest, NearestNamesWhatDiffers) {
  make_snapshot(cache_, numbered_inputs(1));
  SnapshotInputs inputs = numbered_inputs(1);
  inputs.kernel = "another";
  inputs.cpu_flags = "+la57";
  make_snapshot(cache_, sample_inputs());  // farther away
  const auto nearest = cache_.nearest(inputs);
  ASSERT_TRUE(nearest);
  EXPECT_EQ(nearest->key, snapshot_key(numbered_inputs(1)));
  EXPECT_THAT(nearest->differences, ElementsAre("kernel", "CPU flags"));
  EXPECT_THAT(cache_.why_none(inputs),
              testing::MatchesRegex("no snapshot fits; the nearest one, [0-9a-f]{8} made [0-9TZ:-]*, differs "
                                    "in: kernel, CPU flags"));
}

TEST_F(SnapshotCacheTest, ListShowsDamagedManifests) {
  const std::string good = make_snapshot(cache_, sample_inputs());
  const std::string bad = make_snapshot(cache_, numbered_inputs(1));
  set_used(bad, 1);
  flip_byte(file(bad, "manifest"), 50);
  const auto entries = cache_.list();
  ASSERT_TRUE(entries);
  ASSERT_THAT(*entries, SizeIs(2));
  EXPECT_EQ(entries->at(0).key, good);
  EXPECT_TRUE(entries->at(0).manifest);
  EXPECT_GE(entries->at(0).allocated, 64U << 10);
  EXPECT_LT(entries->at(0).allocated, 512U << 10);
  EXPECT_FALSE(entries->at(0).in_use);
  EXPECT_FALSE(entries->at(1).manifest);
  EXPECT_THAT(entries->at(1).problem, HasSubstr("damaged"));
  const auto used = find(good);
  EXPECT_TRUE(cache_.list()->at(0).in_use);
}

TEST_F(SnapshotCacheTest, VerifyThrowsAwayWhatIsDamagedAndKeepsTheRest) {
  const std::string good = make_snapshot(cache_, sample_inputs());
  const std::string bad = make_snapshot(cache_, numbered_inputs(1));
  flip_byte(file(bad, "state"), 0);
  const auto verified = cache_.verify();
  ASSERT_TRUE(verified);
  ASSERT_THAT(*verified, SizeIs(2));
  for (const auto& one : *verified) EXPECT_EQ(one.whole, one.key == good) << one.problem;
  EXPECT_THAT(keys(), ElementsAre(good));
}

TEST_F(SnapshotCacheTest, VerifyUsesNone) {
  const std::string key = make_snapshot(cache_, sample_inputs());
  for (const bool noted : {true, false}) {
    if (!noted) std::ofstream(file(key, "use")) << "nothing that is known";
    set_used(key, 1);
    ASSERT_TRUE(cache_.verify());
    EXPECT_EQ(cache_.list()->at(0).last_used_ns, 60'000'000'000) << noted;
  }
}

TEST_F(SnapshotCacheTest, ClearRemovesAllButThoseInUse) {
  const std::string used = make_snapshot(cache_, sample_inputs());
  const std::string idle = make_snapshot(cache_, numbered_inputs(1));
  fs::create_directory(root() + "/.old-1-2");
  std::ofstream(root() + "/.old-1-2/ram") << "left";
  const auto found = find(used);
  const auto cleared = cache_.clear({});
  ASSERT_TRUE(cleared);
  EXPECT_THAT(cleared->removed, ElementsAre(idle));
  EXPECT_THAT(cleared->in_use, ElementsAre(used));
  EXPECT_GE(cleared->bytes, 64U << 10);
  EXPECT_THAT(names(), testing::UnorderedElementsAre(used, "lock"));
}

TEST_F(SnapshotCacheTest, ClearTakesBeginningsOfKeys) {
  const std::string one = make_snapshot(cache_, sample_inputs());
  const std::string other = make_snapshot(cache_, numbered_inputs(1));
  EXPECT_EQ(cache_.clear({one.substr(0, 3)}).error().code(), ErrorCode::kUsage);
  EXPECT_THAT(cache_.clear({"zzzzzz"}).error().message(),
              StartsWith("there is no snapshot 'zzzzzz'; at least 4"));
  EXPECT_THAT(cache_.clear({one.substr(0, 6)})->removed, ElementsAre(one));
  EXPECT_THAT(keys(), ElementsAre(other));
}

// A file system of 1 MiB; needs the right to mount, as a container's root usually has.
class SmallDisk {
 public:
  explicit SmallDisk(std::string path)
      : path_(std::move(path)),
        mounted_(fs::create_directory(path_) && ::mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=1m") == 0) {
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  std::string path_;
  bool mounted_;
};

TEST_F(SnapshotCacheTest, FullDiskIsAnErrorAndLeavesWhatWasThere) {
  const std::string small = scratch_.path("small");
  const SmallDisk disk(small);
  if (!disk.mounted()) GTEST_SKIP() << "cannot mount a tmpfs";
  const SnapshotCache cache(small + "/snapshots");
  const std::string kept = make_snapshot(cache, numbered_inputs(1));
  {
    const auto begun = cache.begin(sample_inputs());
    ASSERT_TRUE(begun && begun->writer);
    SparseWriter ram(begun->writer->ram());
    const auto appended = ram.append(sample_ram(2 << 20));
    ASSERT_FALSE(appended);
    EXPECT_EQ(appended.error().code(), ErrorCode::kHost);
    EXPECT_EQ(appended.error().errno_value(), ENOSPC);
    EXPECT_EQ(appended.error().message(), "cannot write: No space left on device");
  }
  EXPECT_TRUE(cache.find(kept)->snapshot);
  // With no room left at all, not even the notes that were to be written stop anything.
  std::ofstream(small + "/filler") << std::string(2 << 20, 'x');
  EXPECT_TRUE(cache.find(kept)->snapshot);
  const auto begun = cache.begin(sample_inputs());
  ASSERT_FALSE(begun);
  EXPECT_EQ(begun.error().errno_value(), ENOSPC);
  EXPECT_THAT(cache.clear({})->removed, ElementsAre(kept));
  EXPECT_FALSE(cache.find(kept)->snapshot);
  EXPECT_TRUE(fs::directory_iterator(small + "/snapshots")->path().filename() == "lock");
}

}  // namespace
}  // namespace ktstr::test
