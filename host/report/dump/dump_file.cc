#include "host/report/dump/dump_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/wire_format_lite.h>

#include "common/mapping.h"
#include "common/quote.h"
#include "common/unique_fd.h"
#include "common/units.h"
#include "host/report/dump/dump_json.h"
#include "host/report/dump/dump_text.h"
#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// A file that appears under its name when it is complete, and leaves nothing otherwise.
class NewFile {
 public:
  explicit NewFile(std::string path)
      : path_(std::move(path)), temporary_(fmt::format("{}.{}.tmp", path_, ::getpid())) {}
  NewFile(NewFile&&) = delete;
  ~NewFile() {
    if (there_) ::unlink(temporary_.c_str());
  }

  // `write` gets the descriptor and returns 0 or an errno.
  Expected<> write(const std::function<int(int)>& write) {
    const UniqueFd fd(
        ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (!fd) return failed(errno);
    there_ = true;
    if (const int error = write(fd.get()); error != 0) return failed(error);
    return {};
  }
  Expected<> publish() {
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return failed(errno);
    there_ = false;
    return {};
  }
  const std::string& path() const { return path_; }

 private:
  std::unexpected<Error> failed(int error) const {
    return std::unexpected(
        Error::from_errno(ErrorCode::kHost, "cannot write the dump " + quote(path_, 300), error));
  }

  std::string path_;
  std::string temporary_;
  bool there_ = false;
};

int write_pb(const ktstr::v1::Dump& dump, int fd) {
  google::protobuf::io::FileOutputStream stream(fd, 64 << 10);
  const bool serialized = dump.SerializeToZeroCopyStream(&stream);
  const bool flushed = stream.Flush();
  if (serialized && flushed) return 0;
  return stream.GetErrno() != 0 ? stream.GetErrno() : EFBIG;
}

// How much memory a message would need, without making it: an empty element takes two bytes in the file, but
// several hundred as an object. nullopt: the bytes are no message of that type.
class MemoryEstimate {
 public:
  explicit MemoryEstimate(std::span<const std::byte> bytes)
      : input_(reinterpret_cast<const std::uint8_t*>(bytes.data()), static_cast<int>(bytes.size())) {}

  bool add(const Descriptor& type) { return fields(type, 0); }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr int kDeepest = 32;

  bool fields(const Descriptor& type, int depth) {
    if (depth > kDeepest) return false;
    bytes_ += size_of(type);
    if (bytes_ > kMaxDumpMemory) return true;
    while (const std::uint32_t tag = input_.ReadTag()) {
      const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
      if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
        bytes_ += sizeof(std::uint64_t);
        if (!WireFormatLite::SkipField(&input_, tag)) return false;
        continue;
      }
      std::uint32_t length = 0;
      if (!input_.ReadVarint32(&length) ||
          length > static_cast<std::uint32_t>(input_.BytesUntilTotalBytesLimit())) {
        return false;
      }
      if (field != nullptr && field->message_type() != nullptr) {
        const CodedInputStream::Limit limit = input_.PushLimit(static_cast<int>(length));
        if (!fields(*field->message_type(), depth + 1)) return false;
        if (bytes_ > kMaxDumpMemory) return true;
        if (input_.BytesUntilLimit() != 0) return false;
        input_.PopLimit(limit);
        continue;
      }
      // A string, or numbers of at least one byte each.
      bytes_ += sizeof(std::string) + std::size_t{length} * sizeof(std::uint64_t);
      if (!input_.Skip(static_cast<int>(length))) return false;
    }
    return true;
  }

  static std::size_t size_of(const Descriptor& type) {
    const auto* prototype = google::protobuf::MessageFactory::generated_factory()->GetPrototype(&type);
    return prototype == nullptr ? 256 : prototype->SpaceUsedLong() + sizeof(void*);
  }

  CodedInputStream input_;
  std::size_t bytes_ = 0;
};

std::string beside(const std::string& path) {
  for (const std::string_view ending : {".json", ".txt"}) {
    if (path.ends_with(ending)) return path.substr(0, path.size() - ending.size()) + ".pb";
  }
  return path;
}

}  // namespace

Expected<DumpFiles> write_dump(const std::string& folder, unsigned n, ktstr::v1::Dump& dump) {
  make_strings_valid(dump);
  if (dump.header().schema_version() == 0) dump.mutable_header()->set_schema_version(kDumpSchemaVersion);
  const std::string stem = fmt::format("{}/dump-{}", folder, n);
  NewFile pb(stem + ".pb");
  NewFile json(stem + ".json");
  NewFile text(stem + ".txt");
  auto done = pb.write([&](int fd) { return write_pb(dump, fd); });
  if (done) {
    done = json.write([&](int fd) {
      DumpSink sink(DumpSink::to_fd(fd));
      write_dump_json(dump, sink);
      return sink.finish();
    });
  }
  if (done) {
    done = text.write([&](int fd) {
      DumpSink sink(DumpSink::to_fd(fd));
      write_dump_text(dump, {.all = true}, sink);
      return sink.finish();
    });
  }
  std::vector<const NewFile*> published;
  for (NewFile* file : {&pb, &json, &text}) {
    if (done) done = file->publish();
    if (done) published.push_back(file);
  }
  if (!done) {
    for (const NewFile* file : published) ::unlink(file->path().c_str());
    return std::unexpected(std::move(done.error()));
  }
  return DumpFiles{.json = json.path(), .text = text.path(), .pb = pb.path()};
}

Expected<ktstr::v1::Dump> parse_dump(std::span<const std::byte> bytes, const std::string& name) {
  const auto bad = [&](const std::string& why) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} {}; a dump-<n>.pb of a run folder would be right", name, why));
  };
  if (bytes.empty()) return bad("is empty");
  if (bytes.size() > kMaxDumpFile) {
    return bad(
        fmt::format("has {}, more than any dump ({})", format_size(bytes.size()), format_size(kMaxDumpFile)));
  }
  MemoryEstimate estimate(bytes);
  ktstr::v1::Dump dump;
  if (!estimate.add(*ktstr::v1::Dump::descriptor())) return bad("is no dump, or it is cut off");
  if (estimate.bytes() > kMaxDumpMemory)
    return bad("would need more than " + format_size(kMaxDumpMemory) + " to read");
  const google::protobuf::LogSilencer silence;  // it would report bad UTF-8 on standard error
  if (!dump.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return bad("is no dump, or it is cut off");
  const std::uint32_t version = dump.header().schema_version();
  if (version == 0) return bad("is no dump: it has no schema version");
  if (version > kDumpSchemaVersion) {
    return fail(
        ErrorCode::kUsage,
        fmt::format("{} was written by a later ktstr-vm ({}): its schema version is {}, this one knows {}",
                    name, quote(dump.header().ktstr_vm_version()), version, kDumpSchemaVersion));
  }
  return dump;
}

Expected<ktstr::v1::Dump> read_dump(const std::string& path) {
  const std::string pb = beside(path);
  if (pb != path && ::access(pb.c_str(), F_OK) != 0) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} is for people and scripts; ktstr-vm reads the .pb of a dump, and "
                            "there is no {} beside it",
                            quote(path, 300), quote(pb, 300)));
  }
  auto file = Mapping::map_file(pb.c_str());
  if (!file) return std::unexpected(std::move(file.error()));
  return parse_dump(file->bytes(), quote(pb, 300));
}

}  // namespace ktstr
