// Queries: any text is a query with an answer, or an error of a few lines.
#include <string>

#include "host/report/dump/dump_query.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/report/sample_dump.h"

using namespace ktstr;
using fuzz::check;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ktstr::v1::Dump dump = sample_dump();
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto query = parse_query(text);
  if (!query) {
    check(query.error().detail().size() < 2000, "an error is short");
    return 0;
  }
  const auto answer = run_query(dump, *query);
  const auto count = count_query(dump, *query);
  check(answer.has_value() == count.has_value(), "counting and answering agree on errors");
  if (!answer) return 0;
  check(answer->rows.size() == *count, "counting and answering agree");
  std::string result;
  DumpSink sink(DumpSink::to_string(result));
  write_answer_table(*answer, sink);
  write_answer_json(*answer, sink);
  sink.finish();
  return 0;
}
