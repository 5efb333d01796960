// A dump's .pb: any bytes are a dump or an error, within bounded memory; what is a dump can be rendered.
#include <span>
#include <string>

#include "host/report/dump/dump_diff.h"
#include "host/report/dump/dump_file.h"
#include "host/report/dump/dump_json.h"
#include "host/report/dump/dump_text.h"
#include "tests/fuzz/fuzz_input.h"

using namespace ktstr;
using fuzz::check;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto dump = parse_dump(std::as_bytes(std::span(data, size)), "'input'");
  if (!dump) {
    check(dump.error().code() == ErrorCode::kUsage, "a bad file is the user's");
    return 0;
  }
  std::string text;
  DumpSink sink(DumpSink::to_string(text));
  write_dump_json(*dump, sink);
  write_dump_text(*dump, {.all = true}, sink);
  write_diff_text(diff_dumps(*dump, *dump), sink);
  check(sink.finish() == 0, "a string takes everything");
  for (const char c : text)
    check(c == '\n' || static_cast<unsigned char>(c) >= 0x20, "no control characters");
  return 0;
}
