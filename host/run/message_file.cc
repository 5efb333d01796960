// Why this is more than one call of TextFormat::Parse (all of it seen with protobuf 3.21):
//   * the parser's position for an unknown or a repeated field is that of the token *after* the name;
//   * it stops at the first error, and knows nothing of meaning: cpusets, zero workers, NaN. The
//     ParseInfoTree it fills remembers where each field stood, so that the checks can point at the place as
//     well;
//   * its recursion is unlimited by default, and 200,000 nested messages end in a stack overflow;
//   * it accepts invalid UTF-8, which the other side's wire parser then refuses.
#include "host/run/message_file.h"

#include <algorithm>
#include <charconv>
#include <regex>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "common/units.h"

namespace ktstr {
namespace {

namespace pb = google::protobuf;

constexpr int kMaxNesting = 100;

// Keeps the first error; the parser gives up after it anyway.
class FirstError : public pb::io::ErrorCollector {
 public:
  void AddError(int line, pb::io::ColumnNumber column, const std::string& message) override {
    if (!message_.empty()) return;
    line_ = line;
    column_ = column;
    message_ = message;
  }
  const std::string& message() const { return message_; }
  int line() const { return line_; }
  int column() const { return column_; }

 private:
  int line_ = 0;
  int column_ = 0;
  std::string message_;
};

std::vector<std::string> field_names(const pb::Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return names;
}

std::vector<std::string> oneof_names(const pb::OneofDescriptor& oneof) {
  std::vector<std::string> names;
  for (int i = 0; i < oneof.field_count(); ++i) names.push_back(oneof.field(i)->name());
  return names;
}

// What would have been right in place of the unknown field `name` of `type`.
std::string unknown_field_hint(const pb::Descriptor& type, const std::string& name) {
  const std::string near = closest_match(name, field_names(type));
  std::string hint = near.empty() ? "" : fmt::format("did you mean '{}'? ", near);
  if (const pb::OneofDescriptor* work_types = type.FindOneofByName("type")) {
    return hint + fmt::format("work types: {}", fmt::join(oneof_names(*work_types), ", "));
  }
  return hint + fmt::format("{} has: {}", type.name(), fmt::join(field_names(type), ", "));
}

// Turns a parser message into ours: right place, plain words, a hint.
struct Complaint {
  SourcePosition position;
  std::string message;
  std::string hint;
};

Complaint explain_parser_error(const SourceText& source, const FirstError& error) {
  Complaint complaint{source.from_tokenizer(error.line(), error.column()), error.message(), ""};
  static const std::regex unknown(R"re(Message type "([^"]+)" has no field named "([^"]+)"\.?)re");
  static const std::regex twice(R"re(Non-repeated field "([^"]+)" is specified multiple times\.?)re");
  std::smatch match;
  if (std::regex_match(complaint.message, match, unknown)) {
    const std::string name = match[2];
    complaint.position = source.find_word_before(name, complaint.position);
    const pb::Descriptor* type = pb::DescriptorPool::generated_pool()->FindMessageTypeByName(match[1]);
    const bool is_work_type = type != nullptr && type->FindOneofByName("type") != nullptr;
    complaint.message = fmt::format("unknown {} '{}'", is_work_type ? "work type or field" : "field", name);
    if (type != nullptr) complaint.hint = unknown_field_hint(*type, name);
  } else if (std::regex_match(complaint.message, match, twice)) {
    const std::string name = match[1];
    complaint.position = source.find_word_before(name, complaint.position);
    complaint.message = fmt::format("'{}' is given twice", name);
    complaint.hint = "this field takes one value; remove one of them";
  } else if (complaint.message.find("belongs to oneof") != std::string::npos) {
    complaint.hint = "only one of these may be given; split it into two";
  } else if (complaint.message.starts_with("Expected")) {
    complaint.hint = "the file is protobuf text format: name: value, name { ... }, strings in double quotes";
  } else if (complaint.message.find("too deep") != std::string::npos) {
    complaint.hint = fmt::format("at most {} levels of nesting", kMaxNesting);
  }
  return complaint;
}

Error complain(const SourceText& source, const Complaint& complaint) {
  std::string detail = source.excerpt(complaint.position);
  if (!complaint.hint.empty()) detail += "\n  hint: " + complaint.hint;
  Error error(ErrorCode::kUsage, fmt::format("{}: {}", source.place(complaint.position), complaint.message));
  return std::move(error).with_detail(std::move(detail));
}

// One component of a field path such as "cgroups[1]".
struct PathStep {
  std::string name;
  int index = -1;
};

std::vector<PathStep> split_path(std::string_view path) {
  std::vector<PathStep> steps;
  while (!path.empty()) {
    const std::size_t dot = path.find('.');
    std::string_view part = path.substr(0, dot);
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    PathStep step;
    const std::size_t bracket = part.find('[');
    step.name = std::string(part.substr(0, bracket));
    if (bracket != std::string_view::npos)
      std::from_chars(part.data() + bracket + 1, part.data() + part.size(), step.index);
    steps.push_back(std::move(step));
  }
  return steps;
}

// Where the field named by `path` stands; where it is absent, the nearest enclosing message; {1, 1} for the
// file.
SourcePosition locate(const SourceText& source, const pb::Descriptor& root_type,
                      const pb::TextFormat::ParseInfoTree& root, std::string_view path) {
  const pb::TextFormat::ParseInfoTree* tree = &root;
  const pb::Descriptor* type = &root_type;
  SourcePosition best{1, 1};
  for (const PathStep& step : split_path(path)) {
    const pb::FieldDescriptor* field = type == nullptr ? nullptr : type->FindFieldByName(step.name);
    if (field == nullptr || tree == nullptr) break;
    const int index = field->is_repeated() ? std::max(step.index, 0) : -1;
    const pb::TextFormat::ParseLocation location = tree->GetLocation(field, index);
    if (location.line >= 0) best = source.from_tokenizer(location.line, location.column);
    type = field->message_type();
    tree = type == nullptr ? nullptr : tree->GetTreeForNested(field, index);
  }
  return best;
}

// Position of the first byte that is not valid UTF-8, or npos.
std::size_t first_invalid_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80         ? 1
                               : (lead >> 5) == 6  ? 2
                               : (lead >> 4) == 14 ? 3
                               : (lead >> 3) == 30 ? 4
                                                   : 0;
    if (length == 0 || i + length > text.size()) return i;
    for (std::size_t k = 1; k < length; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) >> 6) != 2) return i;
    }
    i += length;
  }
  return std::string_view::npos;
}

}  // namespace

struct MessageFile::Places {
  pb::TextFormat::ParseInfoTree tree;
};

MessageFile::MessageFile(SourceText source, const pb::Descriptor& type)
    : source_(std::move(source)), type_(&type), places_(std::make_unique<Places>()) {}
MessageFile::MessageFile(MessageFile&&) noexcept = default;
MessageFile& MessageFile::operator=(MessageFile&&) noexcept = default;
MessageFile::~MessageFile() = default;

Expected<MessageFile> MessageFile::parse(SourceText source, pb::Message& message) {
  if (const std::size_t bad = first_invalid_utf8(source.text()); bad != std::string_view::npos) {
    const auto line =
        std::count(source.text().begin(), source.text().begin() + static_cast<std::ptrdiff_t>(bad), '\n');
    return std::unexpected(ktstr::complain(
        source, {{static_cast<int>(line) + 1, 1}, "invalid UTF-8 in this line", "the file is UTF-8 text"}));
  }
  MessageFile file(std::move(source), *message.GetDescriptor());
  FirstError first_error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&first_error);
  parser.WriteLocationsTo(&file.places_->tree);
  parser.SetRecursionLimit(kMaxNesting);
  if (!parser.ParseFromString(file.source_.text(), &message))
    return std::unexpected(ktstr::complain(file.source_, explain_parser_error(file.source_, first_error)));
  return file;
}

Error MessageFile::complain(std::string_view path, std::string message, std::string hint) const {
  return ktstr::complain(source_,
                         {locate(source_, *type_, places_->tree, path), std::move(message), std::move(hint)});
}

}  // namespace ktstr
