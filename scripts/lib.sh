# shellcheck shell=bash
# Functions that more than one script needs. Source this file; it runs nothing by itself.
# Results go to standard output, everything meant for a person to standard error, so that
# `dir=$(scripts/fetch-kernel 7.2)` works.

repo_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# CI runners and chroots may start us without HOME.
if [[ -z ${HOME:-} ]]; then
  HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
  export HOME
fi
cache_dir=${XDG_CACHE_HOME:-$HOME/.cache}/ktstr-vm

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die WHAT-WAS-WRONG [WHAT-WOULD-BE-RIGHT]
die() {
  say "error: $1"
  [[ $# -lt 2 ]] || printf '  %s\n' "$2" >&2
  exit 1
}

# Prints the script's opening comment (without the #!) as its help text.
print_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

# Exits after printing the help if any argument asks for it.
help_if_asked() {
  local arg
  for arg in "$@"; do
    if [[ $arg == --help || $arg == -h ]]; then
      print_help
      exit 0
    fi
  done
}

# take_lock NAME: waits for, then holds, the lock until this process ends. Taking it twice is fine.
declare -A held_locks=()
take_lock() {
  local fd
  if [[ -n ${held_locks[$1]:-} ]]; then return; fi
  mkdir -p "$cache_dir/locks"
  exec {fd}>"$cache_dir/locks/$1"
  if ! flock -n "$fd"; then
    say "waiting for another process that holds the lock \"$1\""
    flock "$fd"
  fi
  held_locks[$1]=$fd
}

# Sets $work_dir to a new folder on the same file system as the results, so that a finished
# result can be renamed into place. It goes away when the script ends; what a killed script
# left behind goes away a day later.
make_work_dir() {
  mkdir -p "$cache_dir/tmp"
  find "$cache_dir/tmp" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
  work_dir=$(mktemp -d "$cache_dir/tmp/${0##*/}.XXXXXX")
  trap 'rm -rf "$work_dir"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# replace_link TARGET LINK: points LINK at TARGET in one step (rename), so readers see the old
# or the new target and never nothing.
replace_link() {
  ln -sfn "$1" "$2.new.$$"
  mv -T "$2.new.$$" "$2"
}

# series_of RELEASE: 7.2.13+deb14-cloud-amd64 -> 7.2
series_of() {
  [[ $1 =~ ^([0-9]+\.[0-9]+) ]] || die "\"$1\" is not a kernel release" "expected something like 7.2.13+deb14-cloud-amd64"
  printf '%s\n' "${BASH_REMATCH[1]}"
}

# find_vmlinuz KERNEL-FOLDER: the bzImage in a folder that fetch-kernel made. Packages up to 7.1 have it in
# boot/, later ones beside the modules.
find_vmlinuz() {
  local found
  found=$(find "$1" -name 'vmlinuz*' -type f -print -quit)
  [[ -n $found ]] || die "no vmlinuz in $1" "fetch it again: rm -r $1, then scripts/fetch-kernel"
  printf '%s\n' "$found"
}

# configure FOLDER MESON-OPTION...: a build folder below the repository, made once.
configure() {
  local folder=$repo_dir/$1
  shift
  [[ -e $folder/build.ninja ]] || meson setup "$folder" "$repo_dir" "$@" >&2
}
