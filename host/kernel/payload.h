// The compressed kernel inside a bzImage.
//
// The kernel's build compresses vmlinux (stripped, with relocations appended) and stores it as the payload.
// For every method but gzip the build appends the unpacked size as four little-endian bytes that are no part
// of the stream (scripts/Makefile.lib, "size_append"); a gzip stream ends in that number by itself (RFC 1952,
// ISIZE). So the last four bytes of the payload bound the unpacked size in every case.
//
// The streams are unpacked by libarchive's raw format with exactly one filter switched on, so that no
// external program can ever be started on behalf of a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "common/error.h"

namespace ktstr {

enum class Compression { kUnknown, kGzip, kBzip2, kLzma, kXz, kLzo, kLz4, kZstd };

// The method whose magic number `stream` begins with.
Compression detect_compression(std::span<const std::byte> stream);
// "gzip", "zstd", ...; "an unknown method".
std::string_view compression_name(Compression compression);

// Largest unpacked kernel that is accepted, bytes. Distribution kernels unpack to about 60 MiB, one with
// everything built in to about 200 MiB.
constexpr std::uint64_t kMaxUnpackedSize = std::uint64_t{512} << 20;

// Takes the unpacked bytes, piece by piece and in order. An error stops the unpacking and is handed on.
using PayloadSink = std::function<Expected<>(std::span<const std::byte>)>;

// Unpacks `payload` (stream and trailing size, as the setup header delimits it) into `sink`, and returns the
// number of bytes, which is exactly what the trailing size says. Error kUsage, naming the method, when: the
// method is not known or not supported (lzo); the trailing size exceeds kMaxUnpackedSize; the stream is
// damaged, ends early, or yields more or less than the trailing size. Errors of `sink` come back unchanged.
Expected<std::uint64_t> unpack_payload(std::span<const std::byte> payload, const PayloadSink& sink);

}  // namespace ktstr
