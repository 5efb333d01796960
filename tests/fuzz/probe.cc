// Compiles where a compiler has libFuzzer's run time and std::expected (tests/fuzz/meson.build).
#include <cstddef>
#include <cstdint>
#include <expected>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* /*data*/, std::size_t size) {
  const std::expected<std::size_t, int> value = size;
  return value && *value == SIZE_MAX ? -1 : 0;
}
