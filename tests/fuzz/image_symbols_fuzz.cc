// What a kernel with functions only in its kallsyms tells of its data, in an image that is not to be trusted:
// exports, sections, BTF and initial values, with bytes changed as the input says.
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "host/kernel/image_symbols.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/kernel/functions_only_image.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

// Changes: where (3 bytes, from the end of the file, where the headers and the sections in question are), how
// many bytes (1), and these.
void change(std::string& image, FuzzInput& input) {
  while (!input.empty()) {
    std::size_t at = image.size() - 1 - input.number(3) % image.size();
    for (const char c : input.take(input.number(1) % 17)) {
      if (at < image.size()) image[at++] = c;
    }
  }
}

void complete(const std::string& image, const SymbolTable& functions) {
  const auto elf = ElfView::parse(std::as_bytes(std::span(image)), "'x'");
  if (!elf) return;
  std::optional<Btf> btf;
  if (const ElfSection* section = elf->section(".BTF")) {
    if (auto parsed = Btf::parse(section->bytes)) btf.emplace(std::move(*parsed));
  }
  static_cast<void>(has_functions_only(functions, *elf));
  const auto table = complete_symbols(functions, *elf, btf ? &*btf : nullptr, "'x'");
  if (!table) return;
  check(table->size() >= functions.size(), "no function is lost");
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < table->size(); ++i) {
    check(table->address_at(i) >= before, "addresses ascend");
    before = table->address_at(i);
  }
  const AddressRange extent = kernel_extent(*elf);
  for (const char* name : {"init_mm", "init_top_pgt"}) {
    for (const std::uint64_t address : table->addresses(name))
      check(extent.contains(address), "what initial values lead to is in the kernel");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::array<std::string, 2> good{test::make_functions_only(false).elf,
                                               test::make_functions_only(true).elf};
  // The kernel's functions, as decode_kallsyms() gives them.
  static const SymbolTable functions = [] {
    SymbolTable::Builder builder(600);
    for (const auto& symbol : test::many_symbols(KallsymsFormat::kPcRelative))
      builder.add(symbol.name, symbol.address);
    return std::move(builder).finish(SymbolSource::kKallsyms, "fuzz",
                                     {test::kTextAddress, test::kTextAddress + 4800});
  }();
  FuzzInput input(data, size);
  std::string image = good[input.number(1) % good.size()];
  change(image, input);
  complete(image, functions);
  return 0;
}
