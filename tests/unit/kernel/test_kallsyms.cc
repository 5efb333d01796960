#include "tests/unit/kernel/test_kallsyms.h"

#include <array>
#include <string_view>
#include <utility>

namespace ktstr::test {
namespace {

using Tokens = std::array<std::string, 256>;

// Bytes of names stand for themselves; of the others, some for frequent pieces, the rest for pairs that do
// not occur.
Tokens make_tokens() {
  Tokens tokens;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const bool graphic = i > ' ' && i < 0x7f;
    tokens[i] =
        graphic ? std::string(1, static_cast<char>(i)) : std::string("~") + static_cast<char>('!' + i % 90);
  }
  tokens[0] = "Tsymbol_";
  tokens[1] = "scx_";
  tokens[200] = ".isra.0";
  tokens[255] = "a_piece_longer_than_sixteen_characters";
  return tokens;
}

std::string compressed(std::string_view text, const Tokens& tokens) {
  std::string out;
  while (!text.empty()) {
    std::size_t best = static_cast<unsigned char>(text.front());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i].size() > tokens[best].size() && text.starts_with(tokens[i])) best = i;
    }
    out.push_back(static_cast<char>(best));
    text.remove_prefix(tokens[best].size());
  }
  return out;
}

template <typename T>
void append(std::string& text, T value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::uint32_t encoded(std::uint64_t address, KallsymsFormat format, std::uint64_t entry) {
  if (format == KallsymsFormat::kPcRelative) return static_cast<std::uint32_t>(address - entry);
  if (format == KallsymsFormat::kRelativeBase) return static_cast<std::uint32_t>(address - kTextAddress);
  if (address < kTextAddress) return static_cast<std::uint32_t>(address);
  return static_cast<std::uint32_t>(kTextAddress - 1 - address);
}

}  // namespace

std::string make_kallsyms(const std::vector<TestSymbol>& symbols, KallsymsFormat format,
                          std::uint64_t address, KallsymsLayout* layout) {
  const Tokens tokens = make_tokens();
  const std::size_t alignment = format == KallsymsFormat::kPcRelative ? 4 : 8;
  KallsymsLayout at;
  std::string out;
  const auto label = [&](std::size_t& where) {
    while ((address + out.size()) % alignment != 0) out.push_back('\0');
    where = out.size();
  };
  label(at.num_syms);
  append(out, static_cast<std::uint32_t>(symbols.size()));
  label(at.names);
  std::vector<std::uint32_t> markers;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (i % 256 == 0) markers.push_back(static_cast<std::uint32_t>(out.size() - at.names));
    const std::string name = compressed("T" + symbols[i].name, tokens);
    if (name.size() >= 0x80) {
      out.push_back(static_cast<char>((name.size() & 0x7f) | 0x80));
      out.push_back(static_cast<char>(name.size() >> 7));
    } else {
      out.push_back(static_cast<char>(name.size()));
    }
    out += name;
  }
  label(at.markers);
  for (const std::uint32_t marker : markers) append(out, marker);
  label(at.token_table);
  std::vector<std::size_t> index;
  for (const std::string& token : tokens) {
    index.push_back(out.size() - at.token_table);
    out += token;
    out.push_back('\0');
  }
  label(at.token_index);
  for (const std::size_t entry : index) append(out, static_cast<std::uint16_t>(entry));
  label(at.offsets);
  for (const TestSymbol& symbol : symbols) append(out, encoded(symbol.address, format, address + out.size()));
  if (format != KallsymsFormat::kPcRelative) {
    std::size_t base = 0;
    label(base);
    append(out, kTextAddress);
  }
  label(at.end);
  out.append(symbols.size() * 3, '\x01');  // seqs_of_names
  if (layout != nullptr) *layout = at;
  return out;
}

std::vector<TestSymbol> many_symbols(KallsymsFormat format) {
  std::vector<TestSymbol> symbols;
  if (format == KallsymsFormat::kAbsolutePercpu) {
    symbols.push_back({.name = "fixed_percpu_data", .address = 0});
    symbols.push_back({.name = "runqueues", .address = 0x5000});
  }
  const auto at = [](std::size_t i) { return kTextAddress + 8 * i; };
  for (std::size_t i = 0; i < 600; ++i)
    symbols.push_back({.name = "symbol_" + std::to_string(i), .address = at(i)});
  const std::size_t first = symbols.size() - 600;
  const auto rename = [&](std::size_t i, std::string name) { symbols[first + i].name = std::move(name); };
  rename(0, "_text");
  rename(10, "same");
  rename(20, "same");
  rename(30, "scx_work.isra.0");
  rename(31, "scx_work.isra.0.cold");
  rename(40, std::string(300, 'n'));
  rename(41, "a_piece_longer_than_sixteen_characters_and_more");
  rename(50, "alias_a");
  rename(51, "alias_b");
  symbols[first + 51].address = symbols[first + 50].address;
  rename(599, "_end");
  return symbols;
}

std::string make_elf_with_kallsyms(KallsymsFormat format, ElfOptions options) {
  options.rodata = [format](std::uint64_t address) {
    return make_kallsyms(many_symbols(format), format, address);
  };
  return make_elf(options);
}

}  // namespace ktstr::test
