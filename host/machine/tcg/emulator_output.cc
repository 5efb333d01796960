#include "host/machine/tcg/emulator_output.h"

#include <algorithm>
#include <array>

namespace ktstr {

void append_output(std::string& tail, std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) tail.push_back(static_cast<char>(byte));
  if (tail.size() > kMaxEmulatorOutput) tail.erase(0, tail.size() - kMaxEmulatorOutput);
}

std::string emulator_words(std::string_view output) {
  std::string words;
  while (!output.empty()) {
    const std::size_t newline = output.find('\n');
    const std::string_view line = output.substr(0, newline);
    output = newline == std::string_view::npos ? std::string_view{} : output.substr(newline + 1);
    if (line.find("TCG doesn't support requested feature") != std::string_view::npos) continue;
    for (const char c : line) {
      const auto code = static_cast<unsigned char>(c);
      if (c == '\t' || (code >= 0x20 && code != 0x7f)) words.push_back(c);
    }
    words.push_back('\n');
  }
  while (words.ends_with('\n')) words.pop_back();
  return words;
}

std::string first_line(std::string_view words) {
  return std::string(words.substr(0, words.find('\n')));
}

// "Property 'EPYC-x86_64-cpu.nonsense' not found" (qom/object.c)
bool complains_about_cpu_flag(std::string_view words) {
  const std::size_t property = words.find("-x86_64-cpu.");
  return property != std::string_view::npos && words.find("' not found", property) != std::string_view::npos;
}

bool complains_about_image(std::string_view words) {
  constexpr std::array<std::string_view, 6> kComplaints = {
      "could not load kernel", "without PVH ELF Note",
      "invalid kernel header", "Error loading uncompressed kernel",
      "could not open kernel", "linux kernel too old to load",
  };
  return std::any_of(kComplaints.begin(), kComplaints.end(), [words](std::string_view complaint) {
    return words.find(complaint) != std::string_view::npos;
  });
}

}  // namespace ktstr
