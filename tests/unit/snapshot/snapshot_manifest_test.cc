#include "host/snapshot/snapshot_manifest.h"

#include <functional>

#include <gmock/gmock.h>

#include "common/xxh3.h"
#include "tests/unit/snapshot/sample_snapshot.h"

namespace ktstr::test {
namespace {

using testing::HasSubstr;

v1::SnapshotManifest complete() {
  v1::SnapshotManifest manifest = sample_manifest();
  set_inputs(manifest, sample_inputs());
  manifest.set_made_at("2026-11-21T14:05:00Z");
  manifest.mutable_ram()->set_size(4096);
  manifest.mutable_ram()->set_checksum(std::string(32, 'a'));
  manifest.mutable_state()->set_size(10);
  manifest.mutable_state()->set_checksum(std::string(32, 'b'));
  return manifest;
}

Expected<v1::SnapshotManifest> parse(const std::string& text) {
  return parse_manifest(std::as_bytes(std::span(text)));
}

// A file with a checksum that fits, whatever the message says.
std::string framed(const v1::SnapshotManifest& manifest) {
  std::string body;
  EXPECT_TRUE(manifest.SerializeToString(&body));
  Xxh3 hash;
  hash.update(body);
  const auto digest = hash.digest();
  return "KTSTRSNP" + std::string(reinterpret_cast<const char*>(digest.data()), digest.size()) + body;
}

std::string problem_with(const std::function<void(v1::SnapshotManifest&)>& change) {
  v1::SnapshotManifest manifest = parse(*render_manifest(complete())).value();
  change(manifest);
  const auto parsed = parse(framed(manifest));
  EXPECT_FALSE(parsed);
  if (parsed) return "";
  EXPECT_EQ(parsed.error().code(), ErrorCode::kUsage);
  return parsed.error().message();
}

TEST(SnapshotManifestTest, ReadsBackWhatWasWritten) {
  const auto text = render_manifest(complete());
  ASSERT_TRUE(text);
  const auto manifest = parse(*text);
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->schema_version(), kSnapshotSchemaVersion);
  EXPECT_EQ(manifest->key(), snapshot_key(sample_inputs()));
  EXPECT_EQ(manifest->point(), v1::SnapshotManifest::ATTACHED);
  EXPECT_EQ(manifest->facts().kernel_release(), "6.12.1-test");
  EXPECT_EQ(inputs_of(*manifest), named_inputs(sample_inputs()));
}

TEST(SnapshotManifestTest, InputsNeedNotBeUtf8) {
  v1::SnapshotManifest manifest = complete();
  SnapshotInputs inputs = sample_inputs();
  inputs.command_line = "\xff\xfe";
  set_inputs(manifest, inputs);
  const auto text = render_manifest(manifest);
  ASSERT_TRUE(text);
  EXPECT_EQ(parse(*text)->key(), snapshot_key(inputs));
}

TEST(SnapshotManifestTest, EveryFlippedByteIsNoticed) {
  const std::string text = *render_manifest(complete());
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_FALSE(parse(damaged)) << i;
  }
}

TEST(SnapshotManifestTest, EveryTornEndIsNoticed) {
  const std::string text = *render_manifest(complete());
  for (std::size_t size = 0; size < text.size(); ++size) EXPECT_FALSE(parse(text.substr(0, size))) << size;
  EXPECT_FALSE(parse(text + "x"));
}

TEST(SnapshotManifestTest, OtherVersionsAreNamed) {
  EXPECT_EQ(problem_with([](auto& m) { m.set_schema_version(kSnapshotSchemaVersion + 1); }),
            "the manifest does not fit: it is of version 2, and this program has version 1");
}

TEST(SnapshotManifestTest, ContradictionsAreNamed) {
  EXPECT_THAT(problem_with([](auto& m) { m.clear_inputs(); }), HasSubstr("it has 0 inputs"));
  EXPECT_THAT(problem_with([](auto& m) { m.mutable_inputs(1)->set_value("other"); }),
              HasSubstr("its key is not that of its inputs"));
  EXPECT_THAT(problem_with([](auto& m) { m.set_key("../../etc"); }), HasSubstr("its key is no key"));
  EXPECT_THAT(problem_with([](auto& m) { m.clear_point(); }), HasSubstr("at which point"));
  EXPECT_THAT(problem_with([](auto& m) { m.clear_ram(); }), HasSubstr("its RAM has 0 bytes"));
  EXPECT_THAT(problem_with([](auto& m) { m.mutable_state()->set_checksum("no"); }),
              HasSubstr("its state has no checksum"));
  EXPECT_THAT(problem_with([](auto& m) { m.set_run_id(std::string(5000, 'x')); }), HasSubstr("too long"));
}

TEST(SnapshotManifestTest, OneThatNobodyCouldReadIsNotWritten) {
  v1::SnapshotManifest manifest = complete();
  manifest.mutable_facts()->add_modules(std::string(kMaxManifest, 'x'));
  EXPECT_FALSE(render_manifest(manifest));
}

}  // namespace
}  // namespace ktstr::test
