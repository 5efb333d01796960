// ExploreState: the folder of an exploration and its journal.
//
//   <results>/20261121T034500Z-1a2b3c-explore/
//     explore.jsonl   one JSON object a line: a header, then one line for every finished seed
//     explore.json    the findings, written when the exploration ends
//     runs/<seed>/    folder of that seed's run, while it runs and when it is kept
//
// The journal only grows, by one write(2) a line with O_APPEND, so after a kill -9 at most its last line is
// torn. Resuming cuts a torn line off; that seed runs again. Anything else that is wrong with the file is an
// error that names the line: a journal that somebody edited must not be continued on a guess.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/explore/findings.h"

namespace ktstr {

// The first line of the journal: all that a later session needs to go on.
struct ExploreHeader {
  std::vector<std::string> argv;           // as typed
  std::vector<std::string> run_arguments;  // options of every run, without seed and results folder
  std::string out;                         // results folder as the user named it
  std::string working_directory;           // relative paths in run_arguments start here
  std::uint64_t first_seed = 1;
  std::uint64_t seeds = 0;      // --seeds; 0: not given
  std::uint64_t budget_ns = 0;  // --budget; 0: not given

  friend bool operator==(const ExploreHeader&, const ExploreHeader&) = default;
};

class ExploreState {
 public:
  static constexpr int kFormatVersion = 1;
  // Longest line of a journal, bytes: a command line of the kernel's greatest length, escaped.
  static constexpr std::size_t kMaxLine = std::size_t{4} << 20;

  // Makes a new folder below `results` with a journal that holds the header. Errors: kHost when it cannot be
  // made, kUsage when an argument is not UTF-8 (JSON can not hold it).
  static Expected<ExploreState> create(const std::filesystem::path& results, ExploreHeader header);

  // Opens the folder of an earlier exploration. Errors: kUsage when there is none or its journal is damaged
  // (with file:line); kHost when another process explores in it or it cannot be written.
  static Expected<ExploreState> resume(const std::filesystem::path& folder);

  // Appends the seed to the journal and to the findings. True: it is the first failure of its group.
  Expected<bool> add(const SeedRecord& record);

  const ExploreHeader& header() const { return header_; }
  const Findings& findings() const { return findings_; }
  // Absolute.
  const std::filesystem::path& path() const { return path_; }
  // Where the run of `seed` has its results folder.
  std::filesystem::path seed_folder(std::uint64_t seed) const;
  // Writes a file of this folder whole: to a temporary name, then renamed.
  Expected<void> write(const std::string& name, std::string_view content) const;

 private:
  ExploreState(std::filesystem::path path, UniqueFd journal)
      : path_(std::move(path)), journal_(std::move(journal)) {}
  Expected<void> append(std::string line);
  Expected<void> load();
  Expected<void> take_line(std::string_view line, std::uint64_t number);

  std::filesystem::path path_;
  UniqueFd journal_;
  ExploreHeader header_;
  Findings findings_;
};

}  // namespace ktstr
