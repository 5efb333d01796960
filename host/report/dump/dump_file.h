// The files of a dump: dump-<n>.json, dump-<n>.txt, dump-<n>.pb in the run's folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/error.h"
#include "proto/dump.pb.h"

namespace ktstr {

// What DumpHeader.schema_version says in dumps of this program.
inline constexpr std::uint32_t kDumpSchemaVersion = 1;
// Larger than a dump of 100,000 tasks.
inline constexpr std::size_t kMaxDumpFile = std::size_t{256} << 20;
// Most memory that a dump may need when it is read back.
inline constexpr std::size_t kMaxDumpMemory = std::size_t{2} << 30;

struct DumpFiles {
  std::string json;
  std::string text;
  std::string pb;
};

// Writes the three files, all or none: under other names first, then renamed. Strings in `dump` that are no
// UTF-8 are made so (safe_text.h); schema_version is set where it is 0. Error kHost names the file that could
// not be written; what was written of it is removed.
Expected<DumpFiles> write_dump(const std::string& folder, unsigned n, ktstr::v1::Dump& dump);

// Reads a dump back from its .pb; where `path` is a .json or .txt, the .pb beside it is read. Error kUsage:
// not there, too large, cut off, no dump, of a later version of ktstr-vm.
Expected<ktstr::v1::Dump> read_dump(const std::string& path);

// What read_dump() does with the bytes of the file; `name` is for messages.
Expected<ktstr::v1::Dump> parse_dump(std::span<const std::byte> bytes, const std::string& name);

}  // namespace ktstr
