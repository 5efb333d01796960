#include "host/report/json_reader.h"

#include <google/protobuf/util/json_util.h>

#include "common/quote.h"
#include "common/read_file.h"

namespace ktstr {

Expected<ktstr::v1::RunResult> read_result(const std::string& path, std::size_t limit, ErrorCode code) {
  auto text = read_file(path, limit, code);
  if (!text) return std::unexpected(std::move(text.error()));
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  // json_writer.h writes enums in lower case.
  options.case_insensitive_enum_parsing = true;
  ktstr::v1::RunResult result;
  const auto status = google::protobuf::util::JsonStringToMessage(*text, &result, options);
  if (!status.ok()) {
    return fail(code,
                quote(path, 300) + " is no result of a run: " + quote(std::string(status.message()), 120));
  }
  return result;
}

}  // namespace ktstr
