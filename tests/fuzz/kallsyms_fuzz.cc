// Kallsyms in an image that is not to be trusted: good tables in one of the three formats, with bytes changed
// as the input says, or the input itself in their place.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "host/kernel/elf_view.h"
#include "host/kernel/kallsyms_decoder.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/kernel/test_image.h"
#include "tests/unit/kernel/test_kallsyms.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

constexpr std::array kFormats{KallsymsFormat::kAbsolutePercpu, KallsymsFormat::kRelativeBase,
                              KallsymsFormat::kPcRelative};

// Changes of the tables: where (2 bytes), how many bytes (1), and these.
void change(std::string& tables, FuzzInput& input) {
  while (!input.empty()) {
    std::size_t at = input.number(2) % tables.size();
    for (const char c : input.take(input.number(1) % 9)) {
      if (at < tables.size()) tables[at++] = c;
    }
  }
}

void decode(const std::string& elf) {
  const auto view = ElfView::parse(std::as_bytes(std::span(elf)), "'x'");
  check(view.has_value(), "the ELF around the tables is sound");
  const auto table = decode_kallsyms(*view, "'x'");
  if (!table) return;
  const AddressRange extent = kernel_extent(*view);
  check(table->count_ambiguous() <= table->size(), "there are no more ambiguous names than names");
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < table->size(); ++i) {
    const std::uint64_t address = table->address_at(i);
    check(address >= before, "addresses ascend");
    check(!table->addresses(table->name(i)).empty(), "every name is found");
    const auto at = table->nearest(address);
    check(at.has_value() == extent.contains(address), "every address in the kernel is found");
    check(!at || (at->address == address && at->offset == 0), "a symbol's address is its own");
    before = address;
  }
  table->variants(table->name(0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const std::uint64_t choice = input.number(1);
  test::ElfOptions options;
  options.sections = choice % 2 == 0;
  options.rodata = [&](std::uint64_t address) {
    if (choice % 16 == 15) return std::string(input.rest());
    const KallsymsFormat format = kFormats[choice / 16 % kFormats.size()];
    // Made once for each place and format: compressing takes longer than what is tested.
    static std::array<std::string, kFormats.size()> made;
    std::string& good = made[choice / 16 % kFormats.size()];
    if (good.empty()) good = test::make_kallsyms(test::many_symbols(format), format, address);
    std::string tables = good;
    change(tables, input);
    return tables;
  };
  decode(test::make_elf(options));
  return 0;
}
