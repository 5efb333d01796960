#include "guest/init/guest_facts.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "common/read_file.h"
#include "common/unique_fd.h"
#include "guest/init/scx_state.h"
#include "guest/init/slowness.h"

namespace ktstr::guest {
namespace {

constexpr std::size_t kMaxNotes = 4096;
// `_text` is among the first symbols: before it come at most the per-CPU ones.
constexpr std::size_t kMaxKallsymsHead = 65536;
constexpr std::size_t kMaxIomem = 65536;

// Unlike read_file this stops at `limit` without complaint: only the head is wanted, and the kernel makes
// these files line by line as they are read.
std::string read_head(const char* path, std::size_t limit) {
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> buffer{};
  while (fd && text.size() < limit) {
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
  return text;
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

// A number at the start of `text`, which is advanced behind it.
std::optional<std::uint64_t> take_number(std::string_view& text, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

std::uint64_t read_number(const std::string& path) {
  const Expected<std::string> text = read_attribute(path);
  if (!text) return 0;
  std::string_view rest = *text;
  return take_number(rest, 10).value_or(0);
}

// Reads /proc/kallsyms in small bites until `_text` is there.
std::optional<std::uint64_t> find_text_address() {
  const UniqueFd fd(::open("/proc/kallsyms", O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 1024> buffer{};
  while (fd && text.size() < kMaxKallsymsHead) {
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(count));
    const std::string_view whole_lines = std::string_view(text).substr(0, text.rfind('\n') + 1);
    if (const auto address = find_kallsyms_address(whole_lines, "_text")) return address;
  }
  return std::nullopt;
}

}  // namespace

std::string build_id_from_notes(std::span<const std::byte> notes) {
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header{};
    std::memcpy(&header, notes.data(), sizeof header);
    notes = notes.subspan(sizeof header);
    // Name and descriptor are padded to four bytes each; 64-bit sums cannot wrap with 32-bit parts.
    const std::uint64_t name_size = (std::uint64_t{header.n_namesz} + 3) & ~std::uint64_t{3};
    const std::uint64_t desc_size = (std::uint64_t{header.n_descsz} + 3) & ~std::uint64_t{3};
    if (name_size + header.n_descsz > notes.size()) return {};
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 &&
        std::memcmp(notes.data(), "GNU", 4) == 0) {
      std::string hex;
      for (const std::byte byte : notes.subspan(name_size, std::min<std::size_t>(header.n_descsz, 64))) {
        const auto value = std::to_integer<unsigned>(byte);
        hex += "0123456789abcdef"[value >> 4];
        hex += "0123456789abcdef"[value & 15];
      }
      return hex;
    }
    notes = notes.subspan(std::min<std::uint64_t>(name_size + desc_size, notes.size()));
  }
  return {};
}

std::optional<std::pair<std::uint64_t, std::uint64_t>> parse_vmcoreinfo(std::string_view text) {
  if (text.starts_with("0x")) text.remove_prefix(2);
  const auto address = take_number(text, 16);
  if (!address || !text.starts_with(' ')) return std::nullopt;
  text.remove_prefix(1);
  const auto size = take_number(text, 16);
  if (!size || *address == 0 || *size == 0) return std::nullopt;
  return std::pair(*address, *size);
}

std::optional<std::uint64_t> find_kallsyms_address(std::string_view text, std::string_view symbol) {
  while (!text.empty()) {
    std::string_view line = take_line(text);
    const auto address = take_number(line, 16);
    // " T name", for modules followed by "\t[module]"
    if (!address || line.size() < 4 || line[0] != ' ' || line[2] != ' ') continue;
    if (line.substr(3) == symbol) return *address == 0 ? std::nullopt : address;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> find_kernel_code(std::string_view text) {
  while (!text.empty()) {
    std::string_view line = take_line(text);
    if (!line.ends_with(" : Kernel code")) continue;
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    const auto start = take_number(line, 16);
    if (start && *start != 0) return start;
  }
  return std::nullopt;
}

ktstr::v1::GuestFacts collect_guest_facts() {
  ktstr::v1::GuestFacts facts;
  utsname names{};
  if (::uname(&names) == 0) facts.set_kernel_release(names.release);
  const std::string notes = read_head("/sys/kernel/notes", kMaxNotes);
  facts.set_build_id(build_id_from_notes(std::as_bytes(std::span(notes))));
  facts.set_cpus_online(static_cast<std::uint32_t>(std::max(::sysconf(_SC_NPROCESSORS_ONLN), 1L)));
  struct sysinfo memory {};
  if (::sysinfo(&memory) == 0) facts.set_memory_bytes(std::uint64_t{memory.totalram} * memory.mem_unit);
  if (const Expected<std::string> text = read_attribute("/sys/kernel/vmcoreinfo")) {
    if (const auto info = parse_vmcoreinfo(*text)) {
      facts.set_vmcoreinfo_gpa(info->first);
      facts.set_vmcoreinfo_size(info->second);
    }
  }
  facts.set_text_kva(find_text_address().value_or(0));
  facts.set_kernel_code_gpa(find_kernel_code(read_head("/proc/iomem", kMaxIomem)).value_or(0));
  facts.set_slowness(measure_slowness());
  facts.set_tainted(read_number("/proc/sys/kernel/tainted"));
  facts.set_has_sched_ext(ScxStateReader().supported());
  if (const Expected<std::string> clock =
          read_attribute("/sys/devices/system/clocksource/clocksource0/current_clocksource")) {
    facts.set_clocksource(*clock);
  }
  return facts;
}

}  // namespace ktstr::guest
