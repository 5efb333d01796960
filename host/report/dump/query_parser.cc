#include "host/report/dump/query_parser.h"

#include <cctype>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-' || c == '+' ||
         c == '/' || c == ':' || c == '[' || c == ']' || c == '*' || c == '@' ||
         static_cast<unsigned char>(c) >= 0x80;
}

bool same_word(std::string_view a, std::string_view keyword) {
  if (a.size() != keyword.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(a[i])) != keyword[i]) return false;
  }
  return true;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Expected<Query> parse() {
    if (text_.size() > kMaxQuery) {
      return fail(ErrorCode::kUsage, fmt::format("the query has {} characters; at most {} are possible",
                                                 text_.size(), kMaxQuery));
    }
    Query query;
    query.text = text_;
    auto section = name("a section (tasks, cpus, dsqs, ...)");
    if (!section) return std::unexpected(std::move(section.error()));
    query.section = std::move(*section);
    if (keyword("where")) {
      do {
        auto condition = this->condition();
        if (!condition) return std::unexpected(std::move(condition.error()));
        query.conditions.push_back(std::move(*condition));
      } while (keyword("and"));
    }
    if (keyword("select")) {
      do {
        auto field = name("a field");
        if (!field) return std::unexpected(std::move(field.error()));
        query.fields.push_back(std::move(*field));
      } while (symbol(","));
    }
    skip_blanks();
    if (at_ != text_.size()) {
      const bool selected = !query.fields.empty();
      return error(selected                    ? "expected a comma or the end"
                   : !query.conditions.empty() ? "expected 'and', 'select' or the end"
                                               : "expected 'where', 'select' or the end");
    }
    return query;
  }

 private:
  std::unexpected<Error> error(std::string message) const {
    return std::unexpected(query_error(text_, at_, std::move(message)));
  }

  void skip_blanks() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }

  std::string_view peek_word() {
    skip_blanks();
    std::size_t end = at_;
    while (end < text_.size() && is_word(text_[end])) ++end;
    return text_.substr(at_, end - at_);
  }

  bool keyword(std::string_view word) {
    if (!same_word(peek_word(), word)) return false;
    at_ += word.size();
    return true;
  }

  bool symbol(std::string_view symbol) {
    skip_blanks();
    if (!text_.substr(at_).starts_with(symbol)) return false;
    at_ += symbol.size();
    return true;
  }

  Expected<QueryWord> name(std::string_view what) {
    const std::string_view word = peek_word();
    if (word.empty()) return error(fmt::format("expected {}", what));
    QueryWord found{std::string(word), at_};
    at_ += word.size();
    return found;
  }

  Expected<QueryWord> value() {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != '"') return name("a value");
    const std::size_t begin = at_++;
    QueryWord found{"", begin};
    while (at_ < text_.size() && text_[at_] != '"') {
      const bool escaped =
          text_[at_] == '\\' && at_ + 1 < text_.size() && (text_[at_ + 1] == '"' || text_[at_ + 1] == '\\');
      if (escaped) ++at_;
      found.text += text_[at_++];
    }
    if (at_ >= text_.size()) {
      at_ = begin;
      return error("the text that begins here has no closing quote");
    }
    ++at_;
    return found;
  }

  std::optional<QueryCondition::Op> op() {
    using Op = QueryCondition::Op;
    static constexpr std::pair<std::string_view, Op> kOps[] = {
        {"==", Op::kEqual},   {"=~", Op::kMatch},     {"=", Op::kEqual}, {"!=", Op::kNotEqual},
        {"!~", Op::kNoMatch}, {"<=", Op::kLessEqual}, {"<", Op::kLess},  {">=", Op::kGreaterEqual},
        {">", Op::kGreater},  {"~", Op::kMatch}};
    for (const auto& [text, op] : kOps) {
      if (symbol(text)) return op;
    }
    return std::nullopt;
  }

  Expected<QueryCondition> condition() {
    QueryCondition condition;
    auto field = name("a field");
    if (!field) return std::unexpected(std::move(field.error()));
    condition.field = std::move(*field);
    const auto op = this->op();
    if (!op) return error("expected one of = != < <= > >= ~ !~");
    condition.op = *op;
    auto value = this->value();
    if (!value) return std::unexpected(std::move(value.error()));
    condition.value = std::move(*value);
    return condition;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Error query_error(std::string_view query, std::size_t column, std::string message) {
  constexpr std::size_t kShown = 100;  // characters before the place
  const std::size_t begin = column > kShown ? column - kShown : 0;
  const std::string before = printable_utf8(query.substr(begin, column - begin));
  const std::string after = printable_utf8(query.substr(column).substr(0, kShown));
  std::size_t width = 0;
  for (const char c : before) width += (static_cast<unsigned char>(c) & 0xc0) != 0x80 ? 1 : 0;
  return Error(ErrorCode::kUsage, fmt::format("query, column {}: {}", column + 1, message))
      .with_detail(fmt::format("  {}{}\n  {:>{}}", before, after, "^", width + 1));
}

Expected<Query> parse_query(std::string_view text) {
  return Parser(text).parse();
}

}  // namespace ktstr
