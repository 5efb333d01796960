#include "host/monitor/guest_printf.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace ktstr {
namespace {

constexpr std::int64_t kMaxField = static_cast<std::int64_t>(kMaxMessage);

// One "%..." of a format.
struct Conversion {
  bool left = false, plus = false, space = false, special = false, zero = false;
  std::int64_t width = 0;
  std::optional<std::int64_t> precision;
  std::uint32_t bits = 32;
  char kind = 0;
};

class Expander {
 public:
  Expander(KernelReader& memory, std::string_view format, GuestVarargs arguments, const GuestKernel* kernel,
           ReadBudget& budget)
      : memory_(memory), rest_(format), arguments_(arguments), kernel_(kernel), budget_(budget) {}

  ExpandedFormat run() {
    while (!rest_.empty() && result_.text.size() < kMaxMessage && !stopped_) {
      const std::size_t plain = std::min(rest_.find('%'), rest_.size());
      result_.text += rest_.substr(0, plain);
      rest_.remove_prefix(plain);
      if (!rest_.empty()) convert();
    }
    // A "%c" of 0 ends the message for everyone who reads the kernel's buffer.
    result_.text.resize(std::min({result_.text.size(), result_.text.find('\0'), kMaxMessage}));
    return std::move(result_);
  }

 private:
  // The next character, 0 at the end.
  char peek() const { return rest_.empty() ? '\0' : rest_.front(); }
  char take() {
    const char c = peek();
    if (!rest_.empty()) rest_.remove_prefix(1);
    return c;
  }
  void note(std::string problem) {
    if (result_.problem.empty()) result_.problem = std::move(problem);
  }
  void stop(std::string problem) {
    note(std::move(problem));
    stopped_ = true;
  }
  std::uint64_t argument() {
    const auto value = arguments_.next(memory_, budget_);
    if (!value) stop(value.error());
    return value.value_or(0);
  }

  std::int64_t number_or_star() {
    if (peek() == '*') {
      take();
      return std::clamp<std::int64_t>(static_cast<std::int32_t>(argument()), -kMaxField, kMaxField);
    }
    std::int64_t number = 0;
    while (peek() >= '0' && peek() <= '9') number = std::min(number * 10 + (take() - '0'), kMaxField);
    return number;
  }

  void parse(Conversion& conversion) {
    for (bool more = true; more;) {
      switch (peek()) {
        case '-':
          conversion.left = true;
          break;
        case '+':
          conversion.plus = true;
          break;
        case ' ':
          conversion.space = true;
          break;
        case '#':
          conversion.special = true;
          break;
        case '0':
          conversion.zero = true;
          break;
        default:
          more = false;
      }
      if (more) take();
    }
    conversion.width = number_or_star();
    if (conversion.width < 0) {
      conversion.left = true;
      conversion.width = -conversion.width;
    }
    if (peek() == '.') {
      take();
      conversion.precision = std::max<std::int64_t>(0, number_or_star());
    }
    conversion.bits = parse_length();
    conversion.kind = take();
  }

  std::uint32_t parse_length() {
    switch (peek()) {
      case 'h':
        take();
        if (peek() != 'h') return 16;
        take();
        return 8;
      case 'l':
        take();
        if (peek() == 'l') take();
        return 64;
      case 'L':
      case 'z':
      case 'Z':
      case 'j':
      case 't':
        take();
        return 64;
      default:
        return 32;
    }
  }

  void convert() {
    const std::string_view begin = rest_;
    take();  // '%'
    Conversion conversion;
    parse(conversion);
    if (stopped_) return;
    switch (conversion.kind) {
      case '%':
        result_.text += '%';
        return;
      case 'c':
        return pad(conversion, std::string(1, static_cast<char>(argument())));
      case 's':
        return string(conversion);
      case 'p':
        return pointer(conversion);
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o': {
        const std::uint64_t value = argument();
        if (!stopped_) integer(conversion, value);
        return;
      }
      default:
        // The kernel gives up there as well: it cannot know what the argument is.
        result_.text += begin;
        return stop(
            fmt::format("the format has an unknown conversion at offset {} from its end", begin.size()));
    }
  }

  // Text in a field.
  void pad(const Conversion& conversion, const std::string& text) {
    if (stopped_) return;
    const auto width = static_cast<std::size_t>(conversion.width);
    const std::string blanks(width > text.size() ? width - text.size() : 0, ' ');
    result_.text += conversion.left ? text + blanks : blanks + text;
  }

  void string(const Conversion& conversion) {
    const Kva at(argument());
    if (stopped_) return;
    const auto limit =
        static_cast<std::size_t>(std::min(conversion.precision.value_or(kMaxField), kMaxField));
    if (at.value() == 0) return pad(conversion, std::string("(null)").substr(0, limit));
    const auto text = memory_.read_c_string(at, limit, budget_);
    if (!text) {
      note("a string cannot be read: " + text.error().to_string());
      return pad(conversion, "(unreadable)");
    }
    pad(conversion, text->text);
  }

  void pointer(const Conversion& conversion) {
    std::string form;
    while ((peek() >= 'a' && peek() <= 'z') || (peek() >= 'A' && peek() <= 'Z') ||
           (!form.empty() && peek() >= '0' && peek() <= '9'))
      form += take();
    const std::uint64_t value = argument();
    if (stopped_) return;
    const bool is_symbol = form == "S" || form == "s" || form == "B" || form == "SR";
    if (is_symbol && kernel_ != nullptr) {
      std::string name = kernel_->describe(Kva(value));
      if (form == "s") name.resize(std::min(name.find('+'), name.size()));
      if (!name.empty()) return pad(conversion, name);
    } else if (!form.empty() && form != "x" && form != "K" && !is_symbol) {
      note("%p" + form.substr(0, 16) + " is shown as an address");
    }
    pad(conversion, fmt::format("{}{:016x}", form == "x" ? "" : "0x", value));
  }

  // As the kernel's number(): sign, "0x", digits; zeros by the precision, and in place of blanks.
  void integer(const Conversion& conversion, std::uint64_t value) {
    const bool is_signed = conversion.kind == 'd' || conversion.kind == 'i';
    const std::uint32_t unused = 64 - conversion.bits;
    value <<= unused;
    const bool negative = is_signed && static_cast<std::int64_t>(value) < 0;
    value = negative ? ~static_cast<std::uint64_t>(static_cast<std::int64_t>(value) >> unused) + 1
                     : value >> unused;
    std::string digits = conversion.kind == 'x'   ? fmt::format("{:x}", value)
                         : conversion.kind == 'X' ? fmt::format("{:X}", value)
                         : conversion.kind == 'o' ? fmt::format("{:o}", value)
                                                  : fmt::format("{}", value);
    std::string prefix;
    if (is_signed && (negative || conversion.plus || conversion.space))
      prefix = negative ? "-" : conversion.plus ? "+" : " ";
    if (conversion.special && conversion.kind == 'x') prefix += "0x";
    if (conversion.special && conversion.kind == 'X') prefix += "0X";
    if (conversion.special && conversion.kind == 'o' && value != 0) prefix += "0";
    const auto least = static_cast<std::size_t>(conversion.precision.value_or(0));
    if (digits.size() < least) digits.insert(0, least - digits.size(), '0');
    const auto width = static_cast<std::size_t>(conversion.width);
    const std::size_t taken = prefix.size() + digits.size();
    if (conversion.zero && !conversion.left && taken < width) digits.insert(0, width - taken, '0');
    pad(conversion, prefix + digits);
  }

  KernelReader& memory_;
  std::string_view rest_;
  GuestVarargs arguments_;
  const GuestKernel* kernel_;
  ReadBudget& budget_;
  ExpandedFormat result_;
  bool stopped_ = false;
};

}  // namespace

ExpandedFormat expand_format(KernelReader& memory, Kva format, GuestVarargs arguments,
                             const GuestKernel* kernel, ReadBudget& budget) {
  const auto text = memory.read_c_string(format, kMaxMessage, budget);
  if (!text) return {{}, "the format string cannot be read: " + text.error().to_string()};
  return Expander(memory, text->text, arguments, kernel, budget).run();
}

}  // namespace ktstr
