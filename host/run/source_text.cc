#include "host/run/source_text.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

namespace ktstr {
namespace {

constexpr int kTokenizerTabWidth = 8;
// A longer source line is cut in excerpts.
constexpr std::size_t kMaxExcerptLine = 160;

bool is_word_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

}  // namespace

std::string_view SourceText::line(int number) const {
  std::string_view rest = text_;
  for (int i = 1; i < number; ++i) {
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) return {};
    rest.remove_prefix(end + 1);
  }
  return rest.substr(0, rest.find('\n'));
}

SourcePosition SourceText::from_tokenizer(int line_index, int column) const {
  const SourcePosition start{std::max(line_index, 0) + 1, 1};
  const std::string_view content = line(start.line);
  int tokenizer_column = 0;
  std::size_t byte = 0;
  while (byte < content.size() && tokenizer_column < column) {
    tokenizer_column +=
        content[byte] == '\t' ? kTokenizerTabWidth - tokenizer_column % kTokenizerTabWidth : 1;
    ++byte;
  }
  return {start.line, static_cast<int>(byte) + 1};
}

std::size_t SourceText::offset_of(SourcePosition position) const {
  const std::string_view content = line(position.line);
  if (content.data() == nullptr) return text_.size();
  const auto line_start = static_cast<std::size_t>(content.data() - text_.data());
  return std::min(line_start + static_cast<std::size_t>(std::max(position.column, 1) - 1), text_.size());
}

SourcePosition SourceText::position_of(std::size_t offset) const {
  const std::string_view before = std::string_view(text_).substr(0, offset);
  const std::size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  return {static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1,
          static_cast<int>(offset - line_start) + 1};
}

SourcePosition SourceText::find_word_before(std::string_view word, SourcePosition limit) const {
  if (word.empty()) return limit;
  std::size_t from = offset_of(limit);
  while (true) {
    const std::size_t found = text_.rfind(word, from);
    if (found == std::string::npos) return limit;
    const bool starts = found == 0 || !is_word_char(text_[found - 1]);
    const std::size_t end = found + word.size();
    if (starts && (end >= text_.size() || !is_word_char(text_[end]))) return position_of(found);
    if (found == 0) return limit;
    from = found - 1;
  }
}

std::string SourceText::place(SourcePosition position) const {
  return fmt::format("{}:{}:{}", name_, position.line, position.column);
}

std::string SourceText::excerpt(SourcePosition position) const {
  std::string shown(line(position.line).substr(0, kMaxExcerptLine));
  // A tab keeps its width in the caret line, any other control character would disturb a terminal.
  std::string pad;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    if (shown[i] != '\t' && std::iscntrl(static_cast<unsigned char>(shown[i])) != 0) shown[i] = '?';
    if (i + 1 < static_cast<std::size_t>(position.column)) pad += shown[i] == '\t' ? '\t' : ' ';
  }
  return fmt::format("  {}\n  {}^", shown, pad);
}

}  // namespace ktstr
