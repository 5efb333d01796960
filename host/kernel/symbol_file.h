// The symbols of an unpacked kernel, kept in the cache beside it (image_cache.h), so that the next run maps
// them: decoding kallsyms takes 12 to 50 ms and 9 MB of memory, mapping 2 ms, and pages that were looked at
// are given back.
//
// The file is a header (magic with a format version, source, counts, extent, XXH3-128 of all else) and the
// arrays of SymbolTable::Parts one after another. It is believed when the checksum is right and the arrays
// fit together; a file that is not is removed and made anew.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "host/kernel/symbol_table.h"

namespace ktstr {

// Symbols kept beside the cache's entry `entry` (its path); `what` names the image in origin(). nullopt when
// there are none, or `entry` is empty.
std::optional<SymbolTable> load_symbols(const std::string& entry, std::string_view what);

// Keeps them there; their source is kKallsyms or kImage. What cannot be written is not kept.
void keep_symbols(const std::string& entry, const SymbolTable& table);

}  // namespace ktstr
