// Function names for addresses in this very program, from the symbol table of its own ELF file.
// backtrace_symbols(3) knows exported functions only, and a static program has none. Works without the heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace ktstr::guest {

class OwnSymbols {
 public:
  struct Symbol {
    std::string_view name;     // mangled; empty: unknown
    std::uint64_t offset = 0;  // of the address from the symbol's start
  };

  // Maps /proc/self/exe. Without a (sane) symbol table every look-up is empty.
  OwnSymbols();
  ~OwnSymbols();
  OwnSymbols(const OwnSymbols&) = delete;
  OwnSymbols& operator=(const OwnSymbols&) = delete;

  // The function that contains `address`.
  Symbol find(std::uintptr_t address) const;
  // GNU build id of the program (raw bytes), empty when it has none.
  std::span<const std::byte> build_id() const;

 private:
  template <typename T>
  const T* at(std::uint64_t offset, std::uint64_t count = 1) const;

  std::span<const std::byte> file_;
  std::uint64_t symbols_offset_ = 0;
  std::uint64_t symbol_count_ = 0;
  std::string_view names_;
  std::uint64_t bias_ = 0;  // load address minus link address
  std::span<const std::byte> build_id_;
};

}  // namespace ktstr::guest
