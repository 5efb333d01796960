#include "host/kernel/payload.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "host/kernel/bytes.h"

namespace ktstr {
namespace {

using namespace std::string_view_literals;

struct Method {
  Compression compression;
  const char* name;
  std::string_view magic;
  int (*enable)(archive*);  // nullptr: not supported
};

constexpr std::array kMethods{
    Method{Compression::kGzip, "gzip", "\x1f\x8b"sv, archive_read_support_filter_gzip},
    Method{Compression::kBzip2, "bzip2", "BZh"sv, archive_read_support_filter_bzip2},
    Method{Compression::kLzma, "lzma", "\x5d\x00\x00"sv, archive_read_support_filter_lzma},
    Method{Compression::kXz, "xz",
           "\xfd"
           "7zXZ\x00"sv,
           archive_read_support_filter_xz},
    Method{Compression::kLzo, "lzo", "\x89LZO\x00\r\n\x1a\n"sv, nullptr},
    // Frames as `lz4 -l` writes them and x86 kernels use them, and the modern ones.
    Method{Compression::kLz4, "lz4", "\x02\x21\x4c\x18"sv, archive_read_support_filter_lz4},
    Method{Compression::kLz4, "lz4", "\x04\x22\x4d\x18"sv, archive_read_support_filter_lz4},
    Method{Compression::kZstd, "zstd", "\x28\xb5\x2f\xfd"sv, archive_read_support_filter_zstd},
};

const Method* find_method(std::span<const std::byte> stream) {
  for (const Method& method : kMethods) {
    if (as_text(stream).starts_with(method.magic)) return &method;
  }
  return nullptr;
}

struct FreeArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
using Reader = std::unique_ptr<archive, FreeArchive>;

std::unexpected<Error> corrupt(const Method& method, std::string_view why) {
  return fail(ErrorCode::kUsage, fmt::format("the {}-compressed payload is damaged: {}", method.name, why));
}

std::string reason(archive* reader) {
  const char* text = archive_error_string(reader);
  return text != nullptr ? text : "no reason given";
}

std::string describe_unknown(std::span<const std::byte> payload) {
  std::string text = "an unknown method (it begins with";
  for (const std::byte byte : payload.first(std::min<std::size_t>(payload.size(), 6))) {
    text += fmt::format(" {:02x}", std::to_integer<unsigned>(byte));
  }
  return text + ")";
}

Expected<Reader> open_stream(std::span<const std::byte> stream, const Method& method) {
  Reader reader(archive_read_new());
  // ARCHIVE_WARN would mean that the library can not do it by itself and wants to start a program.
  if (!reader || archive_read_support_format_raw(reader.get()) != ARCHIVE_OK ||
      method.enable(reader.get()) != ARCHIVE_OK) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("the payload is compressed with {}, which this build of libarchive lacks", method.name));
  }
  if (archive_read_open_memory(reader.get(), stream.data(), stream.size()) != ARCHIVE_OK) {
    return corrupt(method, reason(reader.get()));
  }
  archive_entry* entry = nullptr;
  const int status = archive_read_next_header(reader.get(), &entry);
  if (status == ARCHIVE_EOF) return corrupt(method, "it is empty");
  if (status != ARCHIVE_OK) return corrupt(method, reason(reader.get()));
  // The raw format takes anything when no filter recognises the stream; then this is 1 (the input alone).
  if (archive_filter_count(reader.get()) < 2) return corrupt(method, "its header makes no sense");
  return reader;
}

Expected<std::uint64_t> pump(archive* reader, const Method& method, std::uint64_t expected,
                             const PayloadSink& sink) {
  std::uint64_t total = 0;
  for (;;) {
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int status = archive_read_data_block(reader, &data, &size, &offset);
    if (status == ARCHIVE_EOF) break;
    if (status != ARCHIVE_OK)
      return corrupt(method, fmt::format("after {} bytes: {}", total, reason(reader)));
    if (size > expected - total) {
      return corrupt(
          method, fmt::format("it unpacks to more than the {} bytes that its last four bytes say", expected));
    }
    if (auto ok = sink({static_cast<const std::byte*>(data), size}); !ok)
      return std::unexpected(std::move(ok.error()));
    total += size;
  }
  if (total != expected) {
    return corrupt(method,
                   fmt::format("it unpacks to {} bytes, its last four bytes say {}", total, expected));
  }
  return total;
}

}  // namespace

Compression detect_compression(std::span<const std::byte> stream) {
  const Method* method = find_method(stream);
  return method != nullptr ? method->compression : Compression::kUnknown;
}

std::string_view compression_name(Compression compression) {
  for (const Method& method : kMethods) {
    if (method.compression == compression) return method.name;
  }
  return "an unknown method";
}

Expected<std::uint64_t> unpack_payload(std::span<const std::byte> payload, const PayloadSink& sink) {
  const Method* method = find_method(payload);
  if (method == nullptr || method->enable == nullptr) {
    const std::string found = method != nullptr ? method->name : describe_unknown(payload);
    return fail(
        ErrorCode::kUsage,
        fmt::format("the payload is compressed with {}; gzip, bzip2, lzma, xz, lz4 and zstd are supported "
                    "(CONFIG_KERNEL_GZIP and so on)",
                    found));
  }
  constexpr std::uint64_t kTrailer = sizeof(std::uint32_t);
  if (payload.size() < method->magic.size() + kTrailer) return corrupt(*method, "it is too short");
  const std::uint64_t expected = *load<std::uint32_t>(payload, payload.size() - kTrailer);
  if (expected > kMaxUnpackedSize) {
    return corrupt(*method,
                   fmt::format("its last four bytes say that it unpacks to {} bytes; at most {} are accepted",
                               expected, kMaxUnpackedSize));
  }
  const bool trailer_in_stream = method->compression == Compression::kGzip;
  const auto stream = trailer_in_stream ? payload : payload.first(payload.size() - kTrailer);
  auto reader = open_stream(stream, *method);
  if (!reader) return std::unexpected(std::move(reader.error()));
  return pump(reader->get(), *method, expected, sink);
}

}  // namespace ktstr
