// ORC tables and stacks made of the input: parsing accepts only what fits, unwinding ends and keeps to its
// limits.
#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "host/inspect/stack/unwind.h"
#include "host/memory/kernel_reader.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

constexpr std::uint64_t kIps = 0xffffffff81000000;
constexpr std::uint64_t kStack = 0xffffc90000000000;
constexpr std::size_t kStackBytes = 4096;

// An ELF with the two sections.
std::string make_elf(std::string_view ips, std::string_view rules) {
  const std::string names("\0.orc_unwind_ip\0.orc_unwind\0.shstrtab\0", 38);
  std::string image(sizeof(Elf64_Ehdr), '\0');
  std::vector<Elf64_Shdr> sections(1);
  const auto add = [&](std::uint32_t name, std::uint32_t type, std::string_view bytes) {
    Elf64_Shdr section = {};
    section.sh_name = name;
    section.sh_type = type;
    section.sh_addr = kIps;
    section.sh_offset = image.size();
    section.sh_size = bytes.size();
    sections.push_back(section);
    image += bytes;
  };
  add(1, SHT_PROGBITS, ips);
  add(16, SHT_PROGBITS, rules);
  add(28, SHT_STRTAB, names);
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_ehsize = sizeof header;
  header.e_shoff = image.size();
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = static_cast<std::uint16_t>(sections.size());
  header.e_shstrndx = 3;
  image.append(reinterpret_cast<const char*>(sections.data()), sections.size() * sizeof(Elf64_Shdr));
  std::memcpy(image.data(), &header, sizeof header);
  return image;
}

// The stack, filled with addresses of code and of itself as the input chooses.
class Stack : public KernelReader {
 public:
  explicit Stack(FuzzInput& input) : bytes_(kStackBytes) {
    for (std::size_t at = 0; at < kStackBytes && !input.empty(); at += 8) {
      const std::uint64_t kind = input.number(1);
      std::uint64_t word = kind % 4 == 0   ? kStack + input.number(2) % kStackBytes
                           : kind % 4 == 3 ? input.number(8)
                                           : kIps + input.number(1);
      std::memcpy(bytes_.data() + at, &word, sizeof word);
    }
  }
  using KernelReader::read;
  FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) override {
    const Fault fault{.kind = Fault::Kind::kNotMapped, .kva = kva, .gpa = {}, .size = out.size()};
    const std::uint64_t offset = kva.value() - kStack;
    if (!budget.spend(out.size()) || offset > bytes_.size() || out.size() > bytes_.size() - offset)
      return std::unexpected(fault);
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  FaultOr<GuestString> read_c_string(Kva, std::size_t, ReadBudget&) override { return GuestString{}; }

 private:
  std::vector<std::byte> bytes_;
};

// Sorted words from steps, or raw ones.
std::string take_ips(FuzzInput& input, std::size_t count) {
  std::string ips;
  const bool raw = input.number(1) % 16 == 0;
  std::uint64_t address = kIps;
  for (std::size_t n = 0; n < count; ++n) {
    if (!raw) address += input.number(1) % 32;
    const auto word = raw ? static_cast<std::uint32_t>(input.number(4))
                          : static_cast<std::uint32_t>(address - kIps - 4 * n);
    ips.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  return ips;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const std::size_t count = input.number(1) % 32;
  const std::string ips = take_ips(input, count);
  std::string rules(input.take(count * 6));
  if (input.number(1) % 16 != 0) rules.resize(count * 6);
  const std::string image = make_elf(ips, rules);
  const auto elf = ElfView::parse(std::as_bytes(std::span(image)), "fuzz");
  check(elf.has_value(), "the ELF is sound");
  const auto table = OrcTable::parse(*elf, "fuzz");
  if (!table) return 0;
  check(table->size() == count, "a rule for each word");

  StackStart start{.ip = Kva(kIps + input.number(1)),
                   .sp = Kva(kStack + input.number(1) * 8),
                   .bp = Kva(kStack + input.number(1) * 8),
                   .running = input.number(1) % 2 == 0,
                   .registers = {}};
  if (start.running) start.registers = StackStart::Registers{.di = kStack + input.number(1)};
  Stack stack(input);
  const std::vector<StackBounds> stacks = {{Kva(kStack), Kva(kStack + 2048)},
                                           {Kva(kStack + 2048), Kva(kStack + kStackBytes)}};
  constexpr std::uint64_t kReads = 1000;
  ReadBudget budget(1 << 20, kReads);
  const auto trace =
      unwind(stack, budget, {.orc = &*table, .slide = 0, .text = {kIps, kIps + 512}}, start, stacks);
  check(!trace.frames.empty() && trace.frames.size() <= kMaxFrames,
        "at least where it began, at most the limit");
  check(trace.frames.front().ip == start.ip, "the first frame is where it began");
  check(kReads - budget.reads_left() <= 3 * kMaxFrames + 64, "a few reads a frame");
  check(trace.note.size() < 300, "the note is a line");
  bool guesses = false;
  for (const Frame& frame : trace.frames) {
    check(!guesses || frame.guess, "guesses come last");
    guesses = frame.guess;
  }
  return 0;
}
