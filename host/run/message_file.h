// MessageFile: a file in protobuf text format whose fields remember where they stood, so that a check of the
// message's meaning can point at line and column.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <google/protobuf/message.h>

#include "common/error.h"
#include "host/run/source_text.h"

namespace ktstr {

class MessageFile {
 public:
  // Parses `source` into `message`. All errors are kUsage with file:line:column in the message, the offending
  // line and a hint in the detail.
  static Expected<MessageFile> parse(SourceText source, google::protobuf::Message& message);

  MessageFile(MessageFile&&) noexcept;
  MessageFile& operator=(MessageFile&&) noexcept;
  ~MessageFile();

  const SourceText& source() const { return source_; }
  // An error of the same form about the field that `path` names, e.g. "steps[0].cgroups[1].name". Where the
  // field is absent, the place is that of the nearest enclosing message; "" is the whole file. `hint` may be
  // empty.
  Error complain(std::string_view path, std::string message, std::string hint) const;

 private:
  struct Places;
  MessageFile(SourceText source, const google::protobuf::Descriptor& type);

  SourceText source_;
  const google::protobuf::Descriptor* type_;
  std::unique_ptr<Places> places_;
};

}  // namespace ktstr
