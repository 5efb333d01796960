#include "host/run/scheduler_finder.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "common/cache_folder.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> split_list(const char* list) {
  std::vector<std::string> parts;
  std::string_view rest = list == nullptr ? "" : list;
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    if (colon != 0) parts.emplace_back(rest.substr(0, colon));
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  }
  return parts;
}

// "7.10" is newer than "7.9".
std::pair<int, int> series_key(const std::string& series) {
  int major = 0;
  int minor = 0;
  const char* end = series.data() + series.size();
  const auto result = std::from_chars(series.data(), end, major);
  if (result.ptr < end) std::from_chars(result.ptr + 1, end, minor);
  return {major, minor};
}

std::vector<std::string> cached_folders(std::string_view release) {
  const fs::path root = cache_folder() / "schedulers";
  const std::string own = kernel_series(release);
  std::vector<std::string> series;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(root, error)) {
    if (entry.is_directory(error)) series.push_back(entry.path().filename().string());
  }
  std::sort(series.begin(), series.end(), [&](const std::string& a, const std::string& b) {
    if ((a == own) != (b == own)) return a == own;
    return series_key(a) > series_key(b);
  });
  std::vector<std::string> folders;
  for (const std::string& name : series) folders.push_back((root / name).string());
  return folders;
}

Expected<std::string> check_file(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return fail(ErrorCode::kUsage, fmt::format("no such scheduler: '{}'", path));
  if (!fs::is_regular_file(path, error)) {
    return fail(ErrorCode::kStartFailed, fmt::format("scheduler '{}' is not a regular file", path));
  }
  return fs::absolute(path).string();
}

}  // namespace

std::string kernel_series(std::string_view release) {
  const std::size_t first = release.find('.');
  if (first == std::string_view::npos || first == 0) return "";
  std::size_t end = first + 1;
  while (end < release.size() && release[end] >= '0' && release[end] <= '9') ++end;
  if (end == first + 1) return "";
  return std::string(release.substr(0, end));
}

Expected<std::string> find_scheduler(const std::string& path_or_name, std::string_view kernel_release) {
  if (path_or_name.find('/') != std::string::npos) return check_file(path_or_name);
  std::vector<std::string> folders = split_list(std::getenv("KTSTR_SCHEDULER_PATH"));
  for (const auto& list : {cached_folders(kernel_release), split_list(std::getenv("PATH"))}) {
    folders.insert(folders.end(), list.begin(), list.end());
  }
  for (const std::string& folder : folders) {
    const std::string path = folder + "/" + path_or_name;
    std::error_code error;
    if (fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0)
      return fs::absolute(path).string();
  }
  return fail(
      ErrorCode::kUsage,
      fmt::format("no scheduler '{}' in {}; give its path, or name its folder in KTSTR_SCHEDULER_PATH",
                  path_or_name, fmt::join(folders, ", ")));
}

Expected<std::vector<std::string>> split_arguments(std::string_view text) {
  std::vector<std::string> arguments;
  std::string current;
  bool in_argument = false;
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && quote != '\'') {
      if (i + 1 == text.size())
        return fail(ErrorCode::kUsage, fmt::format("trailing backslash in '{}'", text));
      current += text[++i];
      in_argument = true;
    } else if (quote != 0) {
      if (c == quote)
        quote = 0;
      else
        current += c;
    } else if (c == '\'' || c == '"') {
      quote = c;
      in_argument = true;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (in_argument) arguments.push_back(std::exchange(current, {}));
      in_argument = false;
    } else {
      current += c;
      in_argument = true;
    }
  }
  if (quote != 0) return fail(ErrorCode::kUsage, fmt::format("unclosed {} in '{}'", quote, text));
  if (in_argument) arguments.push_back(std::move(current));
  return arguments;
}

}  // namespace ktstr
