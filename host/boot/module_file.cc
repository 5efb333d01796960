#include "host/boot/module_file.h"

#include <archive.h>
#include <archive_entry.h>
#include <elf.h>

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/read_file.h"
#include "host/boot/elf_file.h"

namespace ktstr {
namespace {

// A driver with debug information from a build tree has some 5 MB, the largest of all (amdgpu, stripped) 30
// MB.
constexpr std::size_t kMaxModule = std::size_t{128} << 20;
constexpr std::size_t kMaxModinfo = std::size_t{1} << 20;

std::string shown(std::string_view path) {
  return quote(path, 512);
}

std::unexpected<Error> damaged(const std::string& path, std::string_view why) {
  return fail(ErrorCode::kKernelLacks, fmt::format("kernel module {}: {}", shown(path), why));
}

struct ReadFree {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

Expected<std::string> unpack(const std::string& path, const std::string& packed) {
  const std::unique_ptr<archive, ReadFree> reader(archive_read_new());
  if (reader == nullptr) return fail(ErrorCode::kHost, "no memory for unpacking a kernel module");
  // Anything but ARCHIVE_OK means that libarchive would start another program for the format.
  if (archive_read_support_format_raw(reader.get()) != ARCHIVE_OK ||
      archive_read_support_filter_gzip(reader.get()) != ARCHIVE_OK ||
      archive_read_support_filter_xz(reader.get()) != ARCHIVE_OK ||
      archive_read_support_filter_zstd(reader.get()) != ARCHIVE_OK) {
    return fail(ErrorCode::kHost, "this libarchive was built without gzip, xz or zstd");
  }
  const auto reason = [&] {
    const char* text = archive_error_string(reader.get());
    return std::string("cannot be unpacked: ") + (text != nullptr ? text : "no reason given");
  };
  archive_entry* entry = nullptr;
  if (archive_read_open_memory(reader.get(), packed.data(), packed.size()) != ARCHIVE_OK ||
      archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) {
    return damaged(path, reason());
  }
  std::string plain;
  constexpr std::size_t kStep = std::size_t{256} << 10;
  while (true) {
    const std::size_t filled = plain.size();
    plain.resize(filled + kStep);
    const la_ssize_t got = archive_read_data(reader.get(), plain.data() + filled, kStep);
    if (got < 0) return damaged(path, reason());
    plain.resize(filled + static_cast<std::size_t>(got));
    if (got == 0) return plain;
    if (plain.size() > kMaxModule)
      return damaged(path, fmt::format("has more than {} bytes unpacked", kMaxModule));
  }
}

void split_names(std::string_view text, std::string_view separators, std::vector<std::string>& names) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of(separators), text.size());
    if (end > 0) names.push_back(canonical_module_name(text.substr(0, end)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace

std::string canonical_module_name(std::string_view name) {
  std::string canonical(name);
  std::ranges::replace(canonical, '-', '_');
  return canonical;
}

std::string module_name(std::string_view path) {
  const std::string_view file = path.substr(path.rfind('/') + 1);
  std::size_t end = file.rfind(".ko");
  if (end == std::string_view::npos && file.ends_with(".o")) end = file.size() - 2;
  return end == std::string_view::npos ? std::string() : canonical_module_name(file.substr(0, end));
}

Expected<std::string> read_module(const std::string& path) {
  auto content = read_file(path, kMaxModule, ErrorCode::kUsage);
  if (!content) return content;
  if (!path.ends_with(".ko")) {
    content = unpack(path, *content);
    if (!content) return content;
  }
  auto elf = ElfFile::from_bytes(std::as_bytes(std::span(*content)), path);
  if (!elf) return damaged(path, "its content is not a kernel module");
  if (!elf->is_x86_64())
    return damaged(path, fmt::format("it is built for {}, not for x86-64", elf->architecture()));
  if (elf->type() != ET_REL) return damaged(path, "it is a program or a library, not a kernel module");
  return content;
}

Expected<ModuleInfo> read_module_info(const std::string& path) {
  auto content = read_module(path);
  if (!content) return std::unexpected(std::move(content.error()));
  auto elf = ElfFile::from_bytes(std::as_bytes(std::span(*content)), path);
  if (!elf) return std::unexpected(std::move(elf.error()));
  auto section = elf->read_section(".modinfo", kMaxModinfo);
  if (!section)
    return propagate(std::move(section.error()).with_code(ErrorCode::kKernelLacks), "reading a module");
  if (!*section) return damaged(path, "it has no .modinfo section");
  ModuleInfo info;
  for (std::string_view rest = **section; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.starts_with("depends=")) split_names(line.substr(8), ",", info.depends);
    if (line.starts_with("softdep=")) parse_softdep(line.substr(8), info);
  }
  return info;
}

void parse_softdep(std::string_view text, ModuleInfo& info) {
  std::vector<std::string>* list = nullptr;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of(" \t"), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (word == "pre:") {
      list = &info.before;
    } else if (word == "post:") {
      list = &info.after;
    } else if (!word.empty() && list != nullptr) {
      list->push_back(canonical_module_name(word));
    }
  }
}

}  // namespace ktstr
