// SourceText: a text file whose places are named line:column in messages.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ktstr {

// 1-based; column counts bytes, so a tab is one column (as most editors count when they jump to line:column).
struct SourcePosition {
  int line = 0;
  int column = 0;
};

class SourceText {
 public:
  SourceText(std::string name, std::string text) : name_(std::move(name)), text_(std::move(text)) {}

  // File name as the user gave it.
  const std::string& name() const { return name_; }
  const std::string& text() const { return text_; }

  // Protobuf's tokenizer counts from 0 and moves a tab to the next multiple of 8 (io/tokenizer.cc); this
  // gives the byte that it meant. Out-of-range positions are clamped.
  SourcePosition from_tokenizer(int line, int column) const;
  // Position of the last occurrence of `word` as a whole identifier at or before `limit`; `limit` itself when
  // there is none. For messages whose position is that of the token after the word.
  SourcePosition find_word_before(std::string_view word, SourcePosition limit) const;

  // "<name>:<line>:<column>", for messages.
  std::string place(SourcePosition position) const;
  // The source line, indented, and a caret below the place; two lines without a newline at the end.
  std::string excerpt(SourcePosition position) const;

 private:
  std::size_t offset_of(SourcePosition position) const;
  SourcePosition position_of(std::size_t offset) const;
  std::string_view line(int number) const;

  std::string name_;
  std::string text_;
};

}  // namespace ktstr
