#include "host/snapshot/snapshot_manifest.h"

#include <string_view>

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>

#include "common/xxh3.h"

namespace ktstr {
namespace {

constexpr std::string_view kMagic = "KTSTRSNP";
constexpr std::size_t kHeader = kMagic.size() + sizeof(Xxh3::Digest);
// Thousands of modules are not to be had in one guest.
constexpr int kMaxInputs = 2048;
constexpr std::size_t kMaxName = 4096;
// A guest with more is not of this world: what a file can hold on any file system.
constexpr std::uint64_t kMaxFile = std::uint64_t{1} << 50;

std::string digest_text(std::string_view bytes) {
  const auto digest = [&] {
    Xxh3 hash;
    hash.update(bytes);
    return hash.digest();
  }();
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

// What is wrong with it, or nothing.
std::string problem_of_file(const char* name, const v1::SnapshotFile& file) {
  if (file.size() == 0 || file.size() > kMaxFile) return fmt::format("{} has {} bytes", name, file.size());
  if (!is_digest(file.checksum())) return fmt::format("{} has no checksum", name);
  return "";
}

std::string problem_of(const v1::SnapshotManifest& manifest) {
  if (manifest.schema_version() != kSnapshotSchemaVersion) {
    return fmt::format("it is of version {}, and this program has version {}", manifest.schema_version(),
                       kSnapshotSchemaVersion);
  }
  if (!v1::SnapshotManifest::Point_IsValid(manifest.point()) ||
      manifest.point() == v1::SnapshotManifest::POINT_UNSPECIFIED)
    return "it does not say at which point it was made";
  if (manifest.inputs_size() == 0 || manifest.inputs_size() > kMaxInputs)
    return fmt::format("it has {} inputs, 1 to {} would be right", manifest.inputs_size(), kMaxInputs);
  for (const auto& input : manifest.inputs()) {
    if (input.name().empty() || input.name().size() > kMaxName)
      return fmt::format("an input has a name of {} bytes", input.name().size());
  }
  if (!is_digest(manifest.key())) return "its key is no key";
  if (snapshot_key(inputs_of(manifest)) != manifest.key()) return "its key is not that of its inputs";
  if (manifest.made_at().size() > 64 || manifest.run_id().size() > kMaxName)
    return "the time or the name of its run is too long";
  if (auto problem = problem_of_file("its RAM", manifest.ram()); !problem.empty()) return problem;
  return problem_of_file("its state", manifest.state());
}

}  // namespace

bool is_digest(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::vector<NamedInput> inputs_of(const v1::SnapshotManifest& manifest) {
  std::vector<NamedInput> inputs;
  inputs.reserve(static_cast<std::size_t>(manifest.inputs_size()));
  for (const auto& input : manifest.inputs()) inputs.push_back({input.name(), input.value()});
  return inputs;
}

void set_inputs(v1::SnapshotManifest& manifest, const SnapshotInputs& inputs) {
  manifest.clear_inputs();
  for (NamedInput& named : named_inputs(inputs)) {
    auto& input = *manifest.add_inputs();
    input.set_name(std::move(named.name));
    input.set_value(std::move(named.value));
  }
  manifest.set_point(inputs.point == SnapshotPoint::kAttached ? v1::SnapshotManifest::ATTACHED
                                                              : v1::SnapshotManifest::HELLO);
}

Expected<v1::SnapshotManifest> parse_manifest(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxManifest)
    return fail(ErrorCode::kUsage,
                fmt::format("the manifest has {} bytes, more than {}", bytes.size(), kMaxManifest));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(kMagic)) return fail(ErrorCode::kUsage, "the manifest is none of ours");
  if (text.size() < kHeader) return fail(ErrorCode::kUsage, "the manifest is torn");
  const std::string_view body = text.substr(kHeader);
  if (digest_text(body) != text.substr(kMagic.size(), sizeof(Xxh3::Digest)))
    return fail(ErrorCode::kUsage, "the manifest is damaged: its checksum does not match");
  const google::protobuf::LogSilencer silence;  // it would report bad UTF-8 on standard error
  v1::SnapshotManifest manifest;
  if (!manifest.ParseFromArray(body.data(), static_cast<int>(body.size())))
    return fail(ErrorCode::kUsage, "the manifest is damaged: it cannot be decoded");
  if (const std::string problem = problem_of(manifest); !problem.empty())
    return fail(ErrorCode::kUsage, "the manifest does not fit: " + problem);
  return manifest;
}

Expected<std::string> render_manifest(v1::SnapshotManifest manifest) {
  manifest.set_schema_version(kSnapshotSchemaVersion);
  manifest.set_key(snapshot_key(inputs_of(manifest)));
  std::string body;
  if (!manifest.SerializeToString(&body)) return fail(ErrorCode::kUsage, "the manifest cannot be encoded");
  std::string text = std::string(kMagic) + digest_text(body) + body;
  auto again = parse_manifest(std::as_bytes(std::span(text)));
  if (!again) return std::unexpected(std::move(again.error()));
  return text;
}

}  // namespace ktstr
