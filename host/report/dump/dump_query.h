// Questions to a dump: rows and fields of one of its lists. The language is in query_parser.h.
#pragma once

#include <string>
#include <vector>

#include <google/protobuf/message.h>

#include "common/error.h"
#include "host/report/dump/dump_sink.h"
#include "host/report/dump/query_parser.h"
#include "proto/dump.pb.h"

namespace ktstr {

struct QueryCell {
  std::string text;     // "" where it is not set; elements of lists joined by commas
  bool quoted = false;  // a string in JSON
  bool set = false;
};

struct QueryAnswer {
  std::vector<std::string> fields;
  std::vector<std::vector<QueryCell>> rows;
};

// Error kUsage (with column and caret): no such section or field, with those there are, closest first; a
// regular expression that is none; an order (<) asked of a field that is no number. A condition on a field
// that is not set holds only for != and !~; on a list when it holds for one of its elements.
Expected<QueryAnswer> run_query(const ktstr::v1::Dump& dump, const Query& query);

// How many rows run_query() would give.
Expected<std::size_t> count_query(const ktstr::v1::Dump& dump, const Query& query);

// Columns below their names.
void write_answer_table(const QueryAnswer& answer, DumpSink& sink);
// [{"pid":1,...}, ...], one row on a line; what is not set is left out.
void write_answer_json(const QueryAnswer& answer, DumpSink& sink);

}  // namespace ktstr
