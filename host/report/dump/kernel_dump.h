// Taking the kernel's own dump apart, for dump_compare.h. Internal to host/report/dump.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

#include "host/report/dump/dump_compare.h"

namespace ktstr {

// "12" or "0xc", all of it; nullopt for anything else.
template <typename T>
std::optional<T> kernel_number(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x")) {
    text.remove_prefix(2);
    base = 16;
  }
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

// "a=1 b/c=2/3" into `fields`.
void take_fields(std::string_view line, KernelFields& fields);
// "          rescue=0 budget=12us rescuing=comm[12]", and lines of newer kernels: each "key=value" is a
// field, so that a comparison notices those that it does not know.
void take_cpu_fields(std::string_view line, KernelFields& fields);

}  // namespace ktstr
