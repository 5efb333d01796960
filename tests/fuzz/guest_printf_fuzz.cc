// A format and its arguments as a hostile guest may leave them, in each of the three forms that arguments
// come in: the text keeps to its limits, and integers are written as the C library writes them.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/monitor/guest_printf.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;

constexpr std::uint64_t kText = 0xffffffff81000000;
constexpr std::uint64_t kBase = 0xffff888000001000;
// Where things lie in the guest's one page: the format, anything, a va_list, saved registers, arguments.
constexpr std::size_t kBytes = 4096;
constexpr std::size_t kMaxFormat = 2048;
constexpr std::size_t kList = 3000;
constexpr std::size_t kSaved = 3024;
constexpr std::size_t kArguments = 3072;
constexpr std::size_t kMaxArguments = 24;

// One page, and nothing around it.
class Page : public KernelReader {
 public:
  void put(std::size_t at, std::string_view bytes) { bytes_.replace(at, bytes.size(), bytes); }
  template <typename T>
  void put_value(std::size_t at, T value) {
    put(at, {reinterpret_cast<const char*>(&value), sizeof value});
  }

  using KernelReader::read;
  FaultOr<> read(Kva kva, std::span<std::byte> out, ReadBudget& budget) override {
    if (!budget.spend(out.size())) return fault(Fault::Kind::kBudget, kva, out.size());
    const std::uint64_t offset = kva.value() - kBase;
    if (offset > kBytes || out.size() > kBytes - offset)
      return fault(Fault::Kind::kNotMapped, kva, out.size());
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  FaultOr<GuestString> read_c_string(Kva kva, std::size_t limit, ReadBudget& budget) override {
    GuestString string;
    while (string.text.size() < limit) {
      const auto next = read<char>(kva + string.text.size(), budget);
      if (!next) return std::unexpected(next.error());
      string.terminated = *next == '\0';
      if (string.terminated) break;
      string.text += *next;
    }
    return string;
  }

 private:
  static std::unexpected<Fault> fault(Fault::Kind kind, Kva kva, std::size_t size) {
    return std::unexpected(Fault{.kind = kind, .kva = kva, .gpa = {}, .size = size});
  }

  std::string bytes_ = std::string(kBytes, '\0');
};

const GuestKernel& kernel() {
  static const SymbolTable symbols = [] {
    SymbolTable::Builder builder(3);
    builder.add("_text", kText);
    builder.add("scx_vexit", kText + 64);
    builder.add(std::string(SymbolTable::kMaxName, 'n'), kText + 128);
    return std::move(builder).finish(SymbolSource::kVmlinux, "fuzz", {kText, kText + 4096});
  }();
  static const GuestKernel guest(symbols, nullptr, 0);
  return guest;
}

std::uint64_t take_argument(FuzzInput& input) {
  switch (input.number(1) % 5) {
    case 0:
      return kBase + input.number(2) % (kBytes + 16);
    case 1:
      return kText + input.number(1) * 2;
    case 2:
      return static_cast<std::uint64_t>(static_cast<std::int8_t>(input.number(1)));
    case 3:
      return 0;
    default:
      return input.number(8);
  }
}

// Where the kernel's rules are those of the C library: no "#", and no precision.
void check_integer(FuzzInput& input, Page& page) {
  constexpr std::string_view kFlags = "-+ 0";
  constexpr std::array<std::string_view, 4> kLengths = {"hh", "h", "", "ll"};
  constexpr std::string_view kKinds = "diuxXo";
  std::string format = "%";
  const std::uint64_t flags = input.number(1);
  for (std::size_t i = 0; i < kFlags.size(); ++i) {
    if ((flags >> i & 1) != 0) format += kFlags[i];
  }
  if (const std::uint64_t width = input.number(1) % 80; width != 0) format += std::to_string(width);
  format += kLengths[input.number(1) % kLengths.size()];
  format += kKinds[input.number(1) % kKinds.size()];
  const std::uint64_t value = take_argument(input);
  page.put(0, format + '\0');
  page.put_value(kArguments, value);
  ReadBudget budget(1 << 16, 10'000);
  const auto expanded =
      expand_format(page, Kva(kBase), GuestVarargs::of_array(Kva(kBase + kArguments), 8), nullptr, budget);
  std::array<char, 200> expected;
  std::snprintf(expected.data(), expected.size(), format.c_str(), value);
  check(expanded.problem.empty(), "an integer is no problem");
  check(expanded.text == expected.data(), "an integer looks as the C library writes it");
}

GuestVarargs take_form(FuzzInput& input, const std::vector<std::uint64_t>& values, Page& page,
                       ReadBudget& budget) {
  const auto value = [&](std::size_t i) { return i < values.size() ? values[i] : 0; };
  const std::uint64_t detail = input.number(4);
  switch (input.number(1) % 3) {
    case 0: {
      VcpuRegisters registers;
      registers.rdi = value(0), registers.rsi = value(1), registers.rdx = value(2);
      registers.rcx = value(3), registers.r8 = value(4), registers.r9 = value(5);
      registers.rsp = kBase + kArguments - 8 + detail / 16 % 64;
      return GuestVarargs::at_entry(registers, static_cast<std::uint32_t>(detail % 10));
    }
    case 1: {
      page.put_value(kList, static_cast<std::uint32_t>(detail % 8 == 7 ? detail : detail % 7 * 8));
      page.put_value(kList + 8, kBase + kArguments);
      page.put_value(kList + 16, detail % 16 == 15 ? value(0) : kBase + kSaved);
      const std::size_t away = detail % 32 == 31 ? kBytes - 16 : kList;
      if (auto list = GuestVarargs::of_va_list(page, Kva(kBase + away), budget)) return *list;
      return GuestVarargs::of_array(Kva(), 0);
    }
    default:
      return GuestVarargs::of_array(Kva(kBase + kArguments), detail % 512);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  Page page;
  check_integer(input, page);
  std::vector<std::uint64_t> values(input.number(1) % (kMaxArguments + 1));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = take_argument(input);
    page.put_value(kArguments + 8 * i, values[i]);
    if (i < kArgumentRegisters) page.put_value(kSaved + 8 * i, values[i]);
  }
  constexpr std::uint64_t kReads = 1 << 16;
  ReadBudget budget(1 << 16, input.number(1) % 8 == 0 ? input.number(2) : kReads);
  const GuestVarargs arguments = take_form(input, values, page, budget);
  const GuestKernel* named = input.number(1) % 2 == 0 ? &kernel() : nullptr;
  const std::string_view format = input.take(kMaxFormat);
  page.put(0, format);
  const auto expanded = expand_format(page, Kva(kBase), arguments, named, budget);
  check(expanded.text.size() <= kMaxMessage, "no longer than the kernel's");
  check(expanded.text.find('\0') == std::string::npos, "no zero in the text");
  check(expanded.problem.size() < 300, "the problem is a sentence");
  check(expanded.problem.find_first_of(std::string_view("\0\n\x1b", 3)) == std::string::npos,
        "the problem has nothing of the guest's in it but letters");
  return 0;
}
