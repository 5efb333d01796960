// The messages are read through protobuf's reflection, so that a field added to dump.proto can be asked for
// without a change here. A path is resolved once against the schema; rows then follow it.
#include "host/report/dump/dump_query.h"

#include <regex.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Holds both kinds of 64-bit numbers.
__extension__ using Wide = __int128;

constexpr std::size_t kLongestRegex = 200;
constexpr std::size_t kLongestSubject = 4096;  // of a regular expression
constexpr std::size_t kNamesShown = 12;

// A field behind others; `key` for the last step into a map or into `other`.
struct Path {
  std::string name;
  std::vector<const FieldDescriptor*> steps;
  std::optional<std::string> key;
};

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string fields_of(const Descriptor& type, std::string_view wanted) {
  std::vector<std::pair<std::size_t, std::string>> names;
  for (int i = 0; i < type.field_count(); ++i) {
    const std::string& name = type.field(i)->name();
    std::size_t far = distance(wanted.substr(0, 64), name);
    // "nr" is nearer to "nr_running" than to "id".
    if (!wanted.empty() && name.find(wanted) != std::string::npos) far = 1;
    names.emplace_back(far, name);
  }
  std::stable_sort(names.begin(), names.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNamesShown); ++i)
    text += (i == 0 ? "" : ", ") + names[i].second;
  if (names.size() > kNamesShown) text += fmt::format(", and {} more", names.size() - kNamesShown);
  return text;
}

bool is_other(const FieldDescriptor& field) {
  return field.message_type() == ktstr::v1::Other::descriptor();
}

Expected<Path> resolve(const Query& query, const Descriptor& row, const QueryWord& word) {
  Path path;
  path.name = word.text;
  const Descriptor* type = &row;
  std::string_view rest = word.text;
  std::size_t column = word.column;
  while (true) {
    const std::string_view step = rest.substr(0, rest.find('.'));
    const FieldDescriptor* field = type->FindFieldByName(std::string(step));
    if (field == nullptr) {
      return std::unexpected(query_error(query.text, column,
                                         fmt::format("{} has no field {}; there are {}", type->name(),
                                                     quote(step), fields_of(*type, step))));
    }
    path.steps.push_back(field);
    const bool last = step.size() == rest.size();
    rest.remove_prefix(std::min(rest.size(), step.size() + 1));
    column += step.size() + 1;
    if (field->is_map() || is_other(*field)) {
      if (!last) path.key = rest;
      return path;
    }
    if (last) return path;
    if (field->message_type() == nullptr) {
      return std::unexpected(query_error(
          query.text, column, fmt::format("{} is no message: nothing is inside it", field->name())));
    }
    type = field->message_type();
  }
}

struct Value {
  std::string text;
  bool quoted = true;
  bool hex = false;
  // For comparison.
  std::optional<Wide> number;
};

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

Value unsigned_value(const FieldDescriptor& f, std::uint64_t number) {
  const bool hex = f.type() == FieldDescriptor::TYPE_FIXED64 || f.type() == FieldDescriptor::TYPE_FIXED32;
  return {hex ? fmt::format("{:#x}", number) : fmt::format("{}", number), hex, hex,
          static_cast<Wide>(number)};
}
Value signed_value(std::int64_t number) {
  return {fmt::format("{}", number), false, false, static_cast<Wide>(number)};
}
Value enum_value(const FieldDescriptor& f, int number) {
  const auto* known = f.enum_type()->FindValueByNumber(number);
  return {known == nullptr ? fmt::format("{}", number) : lower(known->name()), true, false, std::nullopt};
}

// The value of a field; `i` for lists. A message gives what a person would call it.
Value value_of(const Message& m, const FieldDescriptor& f, int i) {
  const Reflection& r = *m.GetReflection();
  const bool list = f.is_repeated();
  switch (f.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT64:
      return unsigned_value(f, list ? r.GetRepeatedUInt64(m, &f, i) : r.GetUInt64(m, &f));
    case FieldDescriptor::CPPTYPE_UINT32:
      return unsigned_value(f, list ? r.GetRepeatedUInt32(m, &f, i) : r.GetUInt32(m, &f));
    case FieldDescriptor::CPPTYPE_INT64:
      return signed_value(list ? r.GetRepeatedInt64(m, &f, i) : r.GetInt64(m, &f));
    case FieldDescriptor::CPPTYPE_INT32:
      return signed_value(list ? r.GetRepeatedInt32(m, &f, i) : r.GetInt32(m, &f));
    case FieldDescriptor::CPPTYPE_BOOL: {
      const bool value = list ? r.GetRepeatedBool(m, &f, i) : r.GetBool(m, &f);
      return {value ? "true" : "false", false, false, static_cast<Wide>(value ? 1 : 0)};
    }
    case FieldDescriptor::CPPTYPE_ENUM:
      return enum_value(f, list ? r.GetRepeatedEnumValue(m, &f, i) : r.GetEnumValue(m, &f));
    case FieldDescriptor::CPPTYPE_STRING:
      return {list ? r.GetRepeatedString(m, &f, i) : r.GetString(m, &f), true, false, std::nullopt};
    default:
      break;
  }
  const Message& inner = list ? r.GetRepeatedMessage(m, &f, i) : r.GetMessage(m, &f);
  const Descriptor& type = *inner.GetDescriptor();
  const FieldDescriptor* comm = type.FindFieldByName("comm");
  const FieldDescriptor* pid = type.FindFieldByName("pid");
  if (comm != nullptr && pid != nullptr) {
    return {fmt::format("{}[{}]", value_of(inner, *comm, 0).text, value_of(inner, *pid, 0).text),
            true,
            false,
            {}};
  }
  for (const char* name : {"symbol", "name", "text", "msg"}) {
    const FieldDescriptor* field = type.FindFieldByName(name);
    if (field != nullptr) return value_of(inner, *field, 0);
  }
  return {"{...}", true, false, {}};
}

// All values that the path leads to from `m`: none, one, or several behind lists.
void collect(const Message& m, const Path& path, std::size_t step, std::vector<Value>& values) {
  const FieldDescriptor& f = *path.steps[step];
  const Reflection& r = *m.GetReflection();
  if (f.is_map() || is_other(f)) {
    const FieldDescriptor* key = f.message_type()->field(0);
    const FieldDescriptor* value = f.message_type()->field(1);
    std::map<std::string, Value> sorted;
    for (int i = 0; i < r.FieldSize(m, &f); ++i) {
      const Message& entry = r.GetRepeatedMessage(m, &f, i);
      const std::string name = value_of(entry, *key, 0).text;
      if (path.key && *path.key != name) continue;
      sorted.emplace(name, value_of(entry, *value, 0));
    }
    for (auto& [name, entry] : sorted) {
      if (!path.key) entry = {name + "=" + entry.text, true, false, std::nullopt};
      values.push_back(std::move(entry));
    }
    return;
  }
  const bool last = step + 1 == path.steps.size();
  const int size = f.is_repeated() ? r.FieldSize(m, &f) : !f.has_presence() || r.HasField(m, &f) ? 1 : 0;
  for (int i = 0; i < size; ++i) {
    if (last) {
      values.push_back(value_of(m, f, i));
    } else {
      collect(f.is_repeated() ? r.GetRepeatedMessage(m, &f, i) : r.GetMessage(m, &f), path, step + 1, values);
    }
  }
}

std::optional<Wide> parse_number(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const bool hex = text.starts_with("0x") || text.starts_with("0X");
  if (hex) text.remove_prefix(2);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return negative ? -static_cast<Wide>(value) : static_cast<Wide>(value);
}

// Behind the bracket expression that begins at `at`: "[]a]", "[^[:alpha:]]".
std::size_t end_of_bracket(std::string_view text, std::size_t at) {
  ++at;
  if (at < text.size() && text[at] == '^') ++at;
  if (at < text.size() && text[at] == ']') ++at;
  for (; at < text.size() && text[at] != ']'; ++at) {
    if (text[at] != '[' || at + 1 >= text.size()) continue;
    const char kind = text[at + 1];
    if (kind != ':' && kind != '.' && kind != '=') continue;
    const std::size_t end = text.find(std::string{kind, ']'}, at + 2);
    if (end == std::string_view::npos) return text.size();
    at = end + 1;
  }
  return std::min(at + 1, text.size());
}

// What the C library would need for ever, or all memory, for; nullptr: nothing. It copies what is counted or
// followed by '+', so that each repetition around another one doubles the expression.
const char* unbounded_part(std::string_view text) {
  std::vector<bool> groups(1);  // whether a repetition is inside, the innermost group last
  bool repeats = false;         // the part that ends here holds a repetition
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '*' || c == '+' || c == '?') {
      if (repeats)
        return "a repetition of what has a repetition inside is not supported in a regular expression";
      repeats = groups.back() = true;
      continue;
    }
    repeats = false;
    if (c == '\\') {
      ++at;
      if (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])) != 0)
        return "back references are not supported in a regular expression";
    } else if (c == '{') {
      return "counted repetition {n} is not supported in a regular expression; write \\{ for the character";
    } else if (c == '[') {
      at = end_of_bracket(text, at) - 1;
    } else if (c == '(') {
      groups.push_back(false);
    } else if (c == ')' && groups.size() > 1) {
      repeats = groups.back();
      groups.pop_back();
      if (repeats) groups.back() = true;
    }
  }
  return nullptr;
}

// POSIX regular expression, without what takes the C library too long.
class Regex {
 public:
  static Expected<std::shared_ptr<Regex>> compile(const Query& query, const QueryWord& word) {
    const std::string& text = word.text;
    if (text.size() > kLongestRegex) {
      return std::unexpected(
          query_error(query.text, word.column,
                      fmt::format("this regular expression has {} characters; at most {} are possible",
                                  text.size(), kLongestRegex)));
    }
    if (const char* why = unbounded_part(text); why != nullptr)
      return std::unexpected(query_error(query.text, word.column, why));
    auto made = std::make_shared<Regex>();
    if (const int error = ::regcomp(&made->regex_, text.c_str(), REG_EXTENDED | REG_NOSUB); error != 0) {
      char why[200] = {};
      ::regerror(error, &made->regex_, why, sizeof why);
      return std::unexpected(
          query_error(query.text, word.column, fmt::format("this is no regular expression: {}", why)));
    }
    made->compiled_ = true;
    return made;
  }
  Regex() = default;
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  ~Regex() {
    if (compiled_) ::regfree(&regex_);
  }

  bool found_in(const std::string& text) const {
    return ::regexec(&regex_, text.substr(0, kLongestSubject).c_str(), 0, nullptr, 0) == 0;
  }

 private:
  regex_t regex_ = {};
  bool compiled_ = false;
};

struct Condition {
  Path path;
  QueryCondition::Op op;
  std::string text;
  std::optional<Wide> number;
  std::shared_ptr<Regex> regex;

  bool holds(const Message& row) const {
    using Op = QueryCondition::Op;
    std::vector<Value> values;
    collect(row, path, 0, values);
    if (op == Op::kNotEqual || op == Op::kNoMatch) {
      return std::none_of(values.begin(), values.end(), [&](const Value& value) {
        return op == Op::kNotEqual ? equal(value) : regex->found_in(value.text);
      });
    }
    return std::any_of(values.begin(), values.end(), [&](const Value& value) { return holds_for(value); });
  }

 private:
  bool equal(const Value& value) const {
    return value.number && number ? *value.number == *number : value.text == text;
  }
  bool holds_for(const Value& value) const {
    using Op = QueryCondition::Op;
    if (op == Op::kEqual) return equal(value);
    if (op == Op::kMatch) return regex->found_in(value.text);
    if (!value.number || !number) return false;
    switch (op) {
      case Op::kLess:
        return *value.number < *number;
      case Op::kLessEqual:
        return *value.number <= *number;
      case Op::kGreater:
        return *value.number > *number;
      default:
        return *value.number >= *number;
    }
  }
};

bool has_order(const FieldDescriptor& field) {
  return field.cpp_type() != FieldDescriptor::CPPTYPE_STRING &&
         field.cpp_type() != FieldDescriptor::CPPTYPE_ENUM &&
         (field.is_map() || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE);
}

Expected<Condition> make_condition(const Query& query, const Descriptor& row, const QueryCondition& asked) {
  using Op = QueryCondition::Op;
  auto path = resolve(query, row, asked.field);
  if (!path) return std::unexpected(std::move(path.error()));
  Condition condition{std::move(*path), asked.op, asked.value.text, parse_number(asked.value.text), nullptr};
  const FieldDescriptor& field = *condition.path.steps.back();
  if (asked.op == Op::kMatch || asked.op == Op::kNoMatch) {
    auto regex = Regex::compile(query, asked.value);
    if (!regex) return std::unexpected(std::move(regex.error()));
    condition.regex = std::move(*regex);
    return condition;
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
    if (condition.text == "true") condition.number = 1;
    if (condition.text == "false") condition.number = 0;
  }
  if (asked.op != Op::kEqual && asked.op != Op::kNotEqual && !has_order(field)) {
    return std::unexpected(
        query_error(query.text, asked.field.column,
                    fmt::format("{} is no number: only = != ~ !~ make sense", quote(asked.field.text))));
  }
  const bool numeric = has_order(field) && !(field.is_map() && !condition.path.key);
  if (numeric && !condition.number) {
    return std::unexpected(query_error(
        query.text, asked.value.column,
        fmt::format("{} is a number, {} is none", quote(asked.field.text), quote(asked.value.text))));
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    condition.text = lower(condition.text);
    bool known = false;
    std::string names;
    for (int i = 0; i < field.enum_type()->value_count(); ++i) {
      const std::string name = lower(field.enum_type()->value(i)->name());
      known = known || name == condition.text;
      names += (i == 0 ? "" : ", ") + name;
    }
    if (!known) {
      return std::unexpected(query_error(query.text, asked.value.column,
                                         fmt::format("{} is one of {}", asked.field.text, names)));
    }
  }
  return condition;
}

// What a person mostly wants to see.
const std::map<std::string_view, std::vector<std::string>>& usual_fields() {
  static const std::map<std::string_view, std::vector<std::string>> fields = {
      {"tasks",
       {"pid", "comm", "where", "state_char", "cpu", "waiting_ms", "dsq_name", "ops_state_name", "slice",
        "weight"}},
      {"cpus",
       {"cpu", "idle", "curr", "curr_class", "rq_nr_running", "nr_running", "flags", "runnable_list"}},
      {"dsqs", {"name", "id", "kind", "nr", "seq", "tasks"}},
      {"scheds", {"name", "place", "address", "ops_flags", "bypass_depth", "exit_kind"}}};
  return fields;
}

struct Plan {
  const FieldDescriptor* section = nullptr;
  std::vector<Condition> conditions;
  std::vector<Path> fields;
};

Expected<Plan> make_plan(const Query& query) {
  Plan plan;
  plan.section = ktstr::v1::Dump::descriptor()->FindFieldByName(query.section.text);
  if (plan.section == nullptr) {
    return std::unexpected(
        query_error(query.text, query.section.column,
                    fmt::format("a dump has no section {}; there are {}", quote(query.section.text),
                                fields_of(*ktstr::v1::Dump::descriptor(), query.section.text))));
  }
  const Descriptor& row = *plan.section->message_type();
  for (const QueryCondition& asked : query.conditions) {
    auto condition = make_condition(query, row, asked);
    if (!condition) return std::unexpected(std::move(condition.error()));
    plan.conditions.push_back(std::move(*condition));
  }
  std::vector<QueryWord> fields = query.fields;
  if (fields.empty()) {
    const auto usual = usual_fields().find(query.section.text);
    if (usual != usual_fields().end()) {
      for (const std::string& name : usual->second) fields.push_back({name, 0});
    } else {
      for (int i = 0; i < row.field_count(); ++i) fields.push_back({row.field(i)->name(), 0});
    }
  }
  for (const QueryWord& field : fields) {
    auto path = resolve(query, row, field);
    if (!path) return std::unexpected(std::move(path.error()));
    plan.fields.push_back(std::move(*path));
  }
  return plan;
}

void for_each_row(const ktstr::v1::Dump& dump, const Plan& plan,
                  const std::function<void(const Message&)>& call) {
  const Reflection& reflection = *dump.GetReflection();
  const auto look = [&](const Message& row) {
    if (std::all_of(plan.conditions.begin(), plan.conditions.end(),
                    [&](const Condition& c) { return c.holds(row); }))
      call(row);
  };
  if (!plan.section->is_repeated()) {
    if (reflection.HasField(dump, plan.section)) look(reflection.GetMessage(dump, plan.section));
    return;
  }
  for (int i = 0; i < reflection.FieldSize(dump, plan.section); ++i)
    look(reflection.GetRepeatedMessage(dump, plan.section, i));
}

QueryCell cell_of(const Message& row, const Path& path) {
  std::vector<Value> values;
  collect(row, path, 0, values);
  QueryCell cell;
  cell.set = !values.empty();
  cell.quoted = values.size() != 1 || values.front().quoted || path.steps.back()->is_repeated();
  for (std::size_t i = 0; i < values.size(); ++i) cell.text += (i == 0 ? "" : ",") + values[i].text;
  return cell;
}

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

Expected<QueryAnswer> run_query(const ktstr::v1::Dump& dump, const Query& query) {
  auto plan = make_plan(query);
  if (!plan) return std::unexpected(std::move(plan.error()));
  QueryAnswer answer;
  for (const Path& path : plan->fields) answer.fields.push_back(path.name);
  for_each_row(dump, *plan, [&](const Message& row) {
    std::vector<QueryCell> cells;
    for (const Path& path : plan->fields) cells.push_back(cell_of(row, path));
    answer.rows.push_back(std::move(cells));
  });
  return answer;
}

Expected<std::size_t> count_query(const ktstr::v1::Dump& dump, const Query& query) {
  const auto plan = make_plan(query);
  if (!plan) return std::unexpected(plan.error());
  std::size_t count = 0;
  for_each_row(dump, *plan, [&](const Message&) { ++count; });
  return count;
}

void write_answer_table(const QueryAnswer& answer, DumpSink& sink) {
  std::vector<std::size_t> widths;
  for (const std::string& field : answer.fields) widths.push_back(width_of(field));
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : answer.rows) {
    std::vector<std::string> shown;
    for (std::size_t i = 0; i < row.size(); ++i) {
      shown.push_back(row[i].set && !row[i].text.empty() ? printable_utf8(row[i].text) : "-");
      widths[i] = std::max(widths[i], width_of(shown.back()));
    }
    rows.push_back(std::move(shown));
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      sink.put(cells[i]);
      if (i + 1 == cells.size()) break;
      sink.put(std::string(widths[i] - width_of(cells[i]) + 2, ' '));
    }
    sink.put('\n');
  };
  line(answer.fields);
  for (const auto& row : rows) line(row);
}

void write_answer_json(const QueryAnswer& answer, DumpSink& sink) {
  sink.put('[');
  for (std::size_t r = 0; r < answer.rows.size(); ++r) {
    sink.put(r == 0 ? "\n  {" : ",\n  {");
    bool first = true;
    for (std::size_t i = 0; i < answer.fields.size(); ++i) {
      const QueryCell& cell = answer.rows[r][i];
      if (!cell.set) continue;
      if (!first) sink.put(',');
      first = false;
      put_json_string(sink, answer.fields[i]);
      sink.put(':');
      if (cell.quoted) {
        put_json_string(sink, cell.text);
      } else {
        sink.put(cell.text);
      }
    }
    sink.put('}');
  }
  sink.put(answer.rows.empty() ? "]\n" : "\n]\n");
}

}  // namespace ktstr
