// The manifest of a snapshot as a file: 8 bytes of magic, the XXH3-128 of what follows, a
// ktstr.v1.SnapshotManifest.
//
// It is written last, so a folder without one was never finished; and it is read with suspicion, because a
// torn one, or one of another version, must cost a boot and never a run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/snapshot/snapshot_key.h"
#include "proto/snapshot.pb.h"

namespace ktstr {

// Of SnapshotManifest, and of all else that lies in a snapshot's folder.
inline constexpr std::uint32_t kSnapshotSchemaVersion = 1;
// No manifest is larger, bytes.
inline constexpr std::size_t kMaxManifest = std::size_t{1} << 20;

// Errors kUsage, none of which names the file: no manifest, torn, of another version, or contradictory. A
// message that is given back has a key that is the key of its inputs, a point, sizes and checksums, and texts
// of bounded length.
Expected<v1::SnapshotManifest> parse_manifest(std::span<const std::byte> bytes);

// The file's contents; schema_version and key are filled in. Error kUsage when parse_manifest() would not
// take it.
Expected<std::string> render_manifest(v1::SnapshotManifest manifest);

std::vector<NamedInput> inputs_of(const v1::SnapshotManifest& manifest);
void set_inputs(v1::SnapshotManifest& manifest, const SnapshotInputs& inputs);

// 32 lower-case hexadecimal digits, as keys and checksums are.
bool is_digest(std::string_view text);

}  // namespace ktstr
