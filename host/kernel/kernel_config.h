// KernelConfig: a kernel's configuration, as `make` leaves it in .config.
//
// It comes from one of three places, best first: embedded in the image (CONFIG_IKCONFIG), a file beside the
// image (boot/config-<release> and the like), or, for the many packaged kernels that have neither, what can
// be told from the image itself (config_derive.h). Whatever its origin, text() is fit to be the guest's
// /boot/config-<release>, where libbpf looks the values of a scheduler's `extern ... __kconfig` variables up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"

namespace ktstr {

// What the configuration says about one option.
struct ConfigValue {
  enum class Kind {
    kAbsent,  // not mentioned: off in a complete configuration, unknown in a derived one
    kNo,      // "# CONFIG_X is not set", or =n
    kModule,  // =m
    kYes,     // =y
    kValue,   // a number or a string
  };
  Kind kind = Kind::kAbsent;
  std::string_view text;  // what stands behind '=', quotes included; refers to the KernelConfig
};

class KernelConfig {
 public:
  // Where the text comes from.
  enum class Origin { kNone, kEmbedded, kFile, kDerived };

  // Largest text that is accepted, bytes; distribution kernels have 130 to 280 KiB.
  static constexpr std::size_t kMaxTextSize = std::size_t{8} << 20;

  // Nothing known.
  KernelConfig() = default;

  // Takes a .config text. Lines that are neither an assignment, "is not set", a comment nor blank are an
  // error (kUsage, with the line's number): such a file is something else. Of an option set twice the last
  // line counts. `path` is kept for source() of Origin::kFile.
  static Expected<KernelConfig> parse(std::string text, Origin origin, std::string path = "");
  // Reads a file; error kUsage when it can not be read, is too large or no configuration.
  static Expected<KernelConfig> read_file(const std::string& path);
  // Whether `piece` has the marker of an embedded configuration; the marker has kMarkerSize bytes.
  static constexpr std::size_t kMarkerSize = 8;
  static bool may_embed(std::span<const std::byte> piece);
  // The configuration embedded in `image` (pass the .rodata section, where it lies, or all of the kernel):
  // the gzip stream between "IKCFG_ST" and "IKCFG_ED" (kernel/configs.c). nullopt when there is none, or none
  // that unpacks.
  static std::optional<KernelConfig> find_embedded(std::span<const std::byte> image);

  // Looks an option up, with or without the leading "CONFIG_".
  ConfigValue lookup(std::string_view option) const;
  // Whether the option is =y or =m.
  bool enabled(std::string_view option) const;
  // CONFIG_HZ: timer interrupts, and so jiffies, per second; 0 when the configuration does not say, or
  // something impossible.
  std::uint32_t hz() const;
  // True when an option that is not mentioned is off (not derived, not empty).
  bool complete() const { return origin_ == Origin::kEmbedded || origin_ == Origin::kFile; }

  Origin origin() const { return origin_; }
  // "ikconfig", the file's path, "derived", or "none".
  std::string source() const;
  // The whole text, ends in a newline; empty for Origin::kNone.
  const std::string& text() const { return text_; }
  // Number of options mentioned.
  std::size_t size() const { return entries_.size(); }
  // Names of all options mentioned, with "CONFIG_", sorted; they refer to this object.
  std::vector<std::string_view> options() const;

 private:
  // Positions in text_ instead of views, so that the object can be copied and moved.
  struct Entry {
    std::uint32_t name = 0;
    std::uint32_t name_length = 0;
    std::uint32_t value = 0;
    std::uint32_t value_length = 0;  // 0: "is not set"
  };

  Expected<> index_line(std::size_t begin, std::size_t end, std::size_t number);
  std::string_view name_of(const Entry& entry) const;

  Origin origin_ = Origin::kNone;
  std::string path_;
  std::string text_;
  std::vector<Entry> entries_;  // sorted by name
};

}  // namespace ktstr
