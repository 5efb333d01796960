// A snapshot's manifest: any bytes are a manifest or an error; what is taken is consistent and can be written
// again.
#include <span>
#include <string>

#include <google/protobuf/stubs/logging.h>

#include "common/xxh3.h"
#include "host/snapshot/snapshot_manifest.h"
#include "tests/fuzz/fuzz_input.h"

using namespace ktstr;
using fuzz::check;

namespace {

void try_parse(std::string_view text) {
  const auto manifest = parse_manifest(std::as_bytes(std::span(text)));
  if (!manifest) {
    check(manifest.error().code() == ErrorCode::kUsage, "a bad manifest is a reason to throw it away");
    return;
  }
  check(snapshot_key(inputs_of(*manifest)) == manifest->key(), "the key is that of the inputs");
  check(manifest->ram().size() > 0 && is_digest(manifest->ram().checksum()), "RAM can be verified");
  const auto again = render_manifest(*manifest);
  // Encoding may be longer than what was read only by what protobuf writes canonically; it stays a manifest.
  check(again.has_value(), "what was read can be written");
  const auto names = differences(inputs_of(*manifest), {});
  for (const char c : list_names(names))
    check(static_cast<unsigned char>(c) >= 0x20, "no control characters");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try_parse(input);
  // Behind a checksum that fits, or the fuzzer would never get there; and with a key that fits.
  const auto frame = [](const std::string& body) {
    Xxh3 hash;
    hash.update(body);
    const auto digest = hash.digest();
    return "KTSTRSNP" + std::string(reinterpret_cast<const char*>(digest.data()), digest.size()) + body;
  };
  try_parse(frame(std::string(input)));
  v1::SnapshotManifest manifest;
  const google::protobuf::LogSilencer silence;
  if (!manifest.ParseFromArray(data, static_cast<int>(size))) return 0;
  manifest.set_schema_version(kSnapshotSchemaVersion);
  manifest.set_key(snapshot_key(inputs_of(manifest)));
  std::string body;
  if (manifest.SerializeToString(&body)) try_parse(frame(body));
  return 0;
}
