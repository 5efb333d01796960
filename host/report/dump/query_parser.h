// The query language of `ktstr-vm dump query`:
//
//   SECTION [where FIELD OP VALUE [and ...]] [select FIELD, FIELD ...]
//
//   tasks where where=on_dsq and waiting_ms>100 select pid,comm,dsq_name
//   cpus where curr.comm~"stress.*" select cpu,curr.comm,nr_running
//   scheds select name,events.SCX_EV_SELECT_CPU_FALLBACK
//
// A section is a field of Dump; fields are those of dump.proto, nested by dots, keys of maps and names of
// `other` too. OP is = (or ==), !=, <, <=, >, >=, ~ (POSIX extended regular expression found in the value),
// !~. A value is a number (also 0x), a word, or text in double quotes (\" and \\ inside). Keywords may be
// upper case.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

struct QueryWord {
  std::string text;
  std::size_t column = 0;  // in the expression, from 0
};

struct QueryCondition {
  enum class Op { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kMatch, kNoMatch };
  QueryWord field;
  Op op = Op::kEqual;
  QueryWord value;
};

struct Query {
  std::string text;  // as it was typed
  QueryWord section;
  std::vector<QueryCondition> conditions;
  std::vector<QueryWord> fields;
};

inline constexpr std::size_t kMaxQuery = 4096;

// Error kUsage with the expression and a caret below the place as detail.
Expected<Query> parse_query(std::string_view text);

// An Error about a place in a query.
Error query_error(std::string_view query, std::size_t column, std::string message);

}  // namespace ktstr
