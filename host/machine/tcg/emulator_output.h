// What QEMU itself says on its standard output and error.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace ktstr {

// How much of it is kept.
inline constexpr std::size_t kMaxEmulatorOutput = std::size_t{64} << 10;

// Appends to `tail` and keeps its last kMaxEmulatorOutput bytes.
void append_output(std::string& tail, std::span<const std::byte> bytes);

// `output` without what every start prints (features of the CPU model that tcg does not have), without
// control characters that could steer a terminal, and without newlines at the end.
std::string emulator_words(std::string_view output);

std::string first_line(std::string_view words);

// True when QEMU does not know a property of the CPU by the name given.
bool complains_about_cpu_flag(std::string_view words);

// True when QEMU could not make sense of what -kernel names (messages of hw/i386/x86-common.c and
// hw/core/loader.c).
bool complains_about_image(std::string_view words);

}  // namespace ktstr
