// StructLayout: how a dump message is filled from a kernel structure.
//
// proto/dump.proto says of each field which member it shows, and by which access paths it is reached in
// different kernels. A StructLayout is that list resolved against one kernel's types: done once, before the
// guest is stopped. It then serves both halves of a dump: it knows which bytes of an object have to be copied
// while the guest stands still (capture), and how to make a message of the copy (fill).
//
// A field without a place in this kernel stays unset and is listed in absent(), with the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/message.h>

#include "host/kernel/guest_kernel.h"
#include "host/kernel/kernel_types.h"
#include "host/memory/captured_memory.h"
#include "host/memory/kernel_reader.h"
#include "proto/dump.pb.h"

namespace ktstr {

// Collects what could not be read; at most kMax, then only counts.
class FaultLog {
 public:
  static constexpr std::size_t kMax = 1000;

  void add(std::string path, std::string text);
  // Faults of which nobody kept what they were.
  void add_nameless(std::size_t count) { count_ += count; }
  std::size_t count() const { return count_; }
  const std::vector<ktstr::v1::DumpFault>& faults() const { return faults_; }

 private:
  std::vector<ktstr::v1::DumpFault> faults_;
  std::size_t count_ = 0;
};

// A copy of the needed bytes of one object, at their own offsets.
class ObjectCopy {
 public:
  Kva address() const { return address_; }
  // The number at `place`; nullopt when its bytes could not be read.
  std::optional<std::uint64_t> number(const Place& place) const;
  // The bytes of `place`; empty when they could not be read.
  std::span<const std::byte> bytes(const Place& place) const;

 private:
  friend class StructLayout;
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  bool has(std::uint64_t offset, std::uint64_t size) const;

  Kva address_;
  std::vector<std::byte> bytes_;
  std::vector<Range> missing_;
};

class StructLayout {
 public:
  // Longest string that is followed by a pointer, bytes; the kernel's own dump may be kMaxDumpText.
  static constexpr std::size_t kMaxString = 1024;
  static constexpr std::size_t kMaxDumpText = std::size_t{1} << 20;
  // Largest object that is copied.
  static constexpr std::uint64_t kMaxObject = std::uint64_t{1} << 20;

  StructLayout() = default;
  // Resolves all fields of the message that have an `at` option. `others` names the structure whose remaining
  // members become Other: the access path of a member ("scx"), "" for the structure itself, nullopt for none.
  // `not_others` are members (paths from there) that are shown elsewhere.
  // `mask_bytes` of each cpumask are of interest (those of CPUs that can exist).
  StructLayout(const KernelTypes& types, const google::protobuf::Descriptor* message, std::size_t mask_bytes,
               std::optional<std::string_view> others = std::nullopt,
               const std::vector<std::string_view>& not_others = {});

  // The same for a kernel in which a part of the structure stands alone: `struct_name` is what the paths that
  // begin with `prefix` lead into; fields with other paths are absent.
  struct Alias {
    std::string_view struct_name;
    std::string_view prefix;
  };
  StructLayout(const KernelTypes& types, const google::protobuf::Descriptor* message, std::size_t mask_bytes,
               const Alias& alias);

  // Whether the kernel has the structure at all.
  bool known() const { return known_; }
  const TypeInfo& type() const { return type_; }

  // What a walker takes a member for: a struct of this name ("list_head"), or one of these two.
  static constexpr std::string_view kPointer = "*";
  static constexpr std::string_view kNumber = "#";  // also an enum, a bool

  // A member that the walkers need themselves, so that its bytes are among those copied. nullopt and an entry
  // in absent() (named `what`) when the kernel has none of the paths, or has something else there than `is`.
  std::optional<Place> need(const KernelTypes& types, std::string_view what, std::string_view is,
                            const std::vector<std::string_view>& paths);
  // The same without an entry in absent(): for what lies in another structure in other kernels. The caller
  // says so where it is in none; `why` (if given) has the reason for this one.
  std::optional<Place> want(const KernelTypes& types, std::string_view is,
                            const std::vector<std::string_view>& paths, std::string* why = nullptr);

  // Copies the needed bytes of the object at `kva`, and what its strings and masks point to. False when a
  // part could not be read; what could be is kept.
  bool capture(CapturedMemory& into, KernelReader& from, Kva kva, ReadBudget& budget) const;

  // Reads the needed bytes; faults go to `log` under `path`.
  ObjectCopy copy(KernelReader& memory, Kva kva, const std::string& path, FaultLog& log,
                  ReadBudget& budget) const;

  // What fill() needs besides the copy.
  struct Surroundings {
    KernelReader& memory;
    ReadBudget& budget;
    const GuestKernel& kernel;
    std::uint32_t cpus;  // nr_cpu_ids
    FaultLog& faults;
  };
  // Sets the fields; `path` names the object in faults.
  void fill(google::protobuf::Message& message, const ObjectCopy& object, const std::string& path,
            const Surroundings& around) const;

  // Ranges of the object that are copied; ascending, merged.
  struct Span {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
  };
  const std::vector<Span>& spans() const { return spans_; }
  const std::vector<ktstr::v1::Absence>& absent() const { return absent_; }
  const std::vector<ktstr::v1::Access>& access() const { return access_; }

 private:
  enum class Show {
    kNumber,
    kBool,
    kCharArray,
    kString,   // char *
    kSymbol,   // pointer to something that has a name
    kEnum,     // an enum's constant by name
    kMask,     // cpumask in place
    kMaskPtr,  // cpumask behind a pointer
  };
  struct Field {
    const google::protobuf::FieldDescriptor* descriptor = nullptr;
    Place place;
    Show show = Show::kNumber;
    std::vector<Enumerator> names;  // for kEnum
  };
  struct OtherMember {
    std::string name;
    Place place;
    enum class How {
      kNumber,
      kHex,
      kList,  // a list_head: shown as empty or linked
      kMask,
      kMaskPtr,
    };
    How how = How::kNumber;
    std::vector<Enumerator> names;
  };

  void resolve(const KernelTypes& types, const google::protobuf::Descriptor* message);
  void add_field(const KernelTypes& types, const google::protobuf::FieldDescriptor* field);
  std::optional<Show> how(const KernelTypes& types, const google::protobuf::FieldDescriptor* field,
                          const TypeInfo& type) const;
  void add_others(const KernelTypes& types, const TypeInfo& type, std::string_view base, int depth,
                  const std::vector<std::string>& shown);
  void add_other(const KernelTypes& types, const Place& place, const std::string& path);
  void add_other_array(const KernelTypes& types, const TypeInfo& type, const std::string& path,
                       const std::vector<std::string>& shown);
  void add_span(const Place& place);
  std::string string_at(Kva kva, std::size_t limit, const std::string& path,
                        const Surroundings& around) const;
  void fill_field(google::protobuf::Message& message, const Field& field, const ObjectCopy& object,
                  const std::string& path, const Surroundings& around) const;
  std::optional<std::string> other_value(const OtherMember& member, const ObjectCopy& object,
                                         const std::string& path, const Surroundings& around) const;
  void fill_others(google::protobuf::Message& message, const ObjectCopy& object, const std::string& path,
                   const Surroundings& around) const;
  // Of a mask behind a pointer; nullopt for a null pointer, and with a fault where it cannot be read.
  std::optional<std::string> mask_at(Kva kva, const std::string& path, const Surroundings& around) const;

  bool known_ = false;
  std::size_t mask_bytes_ = 0;
  TypeInfo type_;
  std::string struct_name_;
  std::string prefix_;  // of paths, for an alias
  std::string message_name_;
  std::vector<Field> fields_;
  const google::protobuf::FieldDescriptor* others_field_ = nullptr;
  std::vector<OtherMember> others_;
  std::vector<std::string> others_not_shown_;
  std::vector<Span> spans_;
  std::vector<ktstr::v1::Absence> absent_;
  std::vector<ktstr::v1::Access> access_;
};

// "0-3,8" of a cpumask's bytes, the first `cpus` bits.
std::string cpu_list(std::span<const std::byte> mask, std::uint32_t cpus);

}  // namespace ktstr
