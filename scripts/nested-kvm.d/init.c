// PID 1 of the L1 guest that scripts/nested-kvm starts.
//
// It makes a system that is just enough for ktstr-vm (the usual file systems, the loopback interface, the kvm
// modules), runs the commands of /nested/plan one after the other, and sends home what they print and what
// files they made.
//
// Four virtio-serial ports lead to the script:
//
//   nested.out, nested.err  the commands' standard output and error, byte by byte, as they come
//   nested.files            a tar archive of every file below the plan's "bring" folders that is newer than
//                           the start of the first command
//   nested.status           lines for the script: "booted S", "kvm yes|no", "exit N CODE SECONDS",
//                           "signal N NUMBER SECONDS", "timeout N 0 SECONDS", "noexec N ERRNO",
//                           "fault TEXT", "done"; and "alive S" every two seconds, by which watch.py knows that
//                           L1 has not died without a word
//
// The plan is a list of records KEY=VALUE, each ended by a zero byte: clock (seconds since 1970), limit
// (seconds after the start of the first command at which commands are stopped), module, cwd, bring, env, arg,
// and run, which ends a command. The script wrote it, so it is believed; whatever goes wrong is told on
// nested.status and on the console, and the machine is switched off.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kMaxWords = 1024, kMaxBring = 64, kMaxPath = 4096 };

// After SIGTERM a command has this long to clean up.
static const double kGraceSeconds = 15;
// Something that a finished command left running may hold its output open this long.
static const double kDrainSeconds = 2;
static const double kAliveSeconds = 2;

static int status_port = -1;

static double uptime(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void nap(long milliseconds) {
  const struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static void write_all(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t written = write(fd, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {
      nap(1);
      continue;
    }
    // Nobody is left who could be told.
    if (written <= 0) return;
    bytes += written;
    size -= (size_t)written;
  }
}

__attribute__((format(printf, 1, 2))) static void tell(const char* format, ...) {
  char line[kMaxPath + 256];
  va_list arguments;
  va_start(arguments, format);
  int size = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  if (size < 0) return;
  if (size > (int)sizeof line - 2) size = (int)sizeof line - 2;
  line[size++] = '\n';
  write_all(status_port >= 0 ? status_port : STDERR_FILENO, line, (size_t)size);
}

static void tell_alive(double now) {
  static double last = 0;
  if (now < last + kAliveSeconds) return;
  last = now;
  tell("alive %.1f", now);
}

__attribute__((noreturn)) static void switch_off(void) {
  sync();
  reboot(RB_POWER_OFF);
  // A kernel without a way to power off returns.
  reboot(RB_AUTOBOOT);
  _exit(1);
}

__attribute__((noreturn)) static void give_up(const char* what, const char* object) {
  const int error = errno;
  fprintf(stderr, "nested init: %s %s: %s\n", what, object, strerror(error));
  tell("fault %s %s: %s", what, object, strerror(error));
  switch_off();
}

static void make_folders(const char* path) {
  char part[kMaxPath];
  snprintf(part, sizeof part, "%s", path);
  for (char* at = part + 1; *at != '\0'; ++at) {
    if (*at != '/') continue;
    *at = '\0';
    mkdir(part, 0755);
    *at = '/';
  }
  mkdir(part, 0755);
}

static void mount_at(const char* type, const char* folder, const char* options) {
  make_folders(folder);
  // /dev may have been mounted by the kernel.
  if (mount(type, folder, type, 0, options) != 0 && errno != EBUSY) give_up("cannot mount", folder);
}

static void mount_everything(void) {
  mount_at("proc", "/proc", NULL);
  mount_at("sysfs", "/sys", NULL);
  mount_at("devtmpfs", "/dev", NULL);
  mount_at("devpts", "/dev/pts", "mode=620,ptmxmode=666");
  mount_at("tmpfs", "/dev/shm", "mode=1777");
  mount_at("tmpfs", "/run", "mode=755");
  mount_at("cgroup2", "/sys/fs/cgroup", NULL);
  // Optional: nothing of ours needs it.
  mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
  // Modes that mkdir's umask does not give.
  make_folders("/var/tmp");
  mkdir("/tmp", 0755);
  chmod("/tmp", 01777);
  chmod("/var/tmp", 01777);
  symlink("/proc/self/fd", "/dev/fd");
  symlink("/proc/self/fd/0", "/dev/stdin");
  symlink("/proc/self/fd/1", "/dev/stdout");
  symlink("/proc/self/fd/2", "/dev/stderr");
}

static void raise_loopback(void) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  struct ifreq request = {.ifr_name = "lo"};
  if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    ioctl(fd, SIOCSIFFLAGS, &request);
  }
  close(fd);
}

// The port of that name; its device may come a moment after PID 1 has started.
static int open_port(const char* wanted) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    DIR* folder = opendir("/sys/class/virtio-ports");
    for (struct dirent* entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
      char path[kMaxPath];
      char name[64] = "";
      snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
      FILE* file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
      if (file == NULL) continue;
      if (fgets(name, sizeof name, file) != NULL) name[strcspn(name, "\n")] = '\0';
      fclose(file);
      if (strcmp(name, wanted) != 0) continue;
      snprintf(path, sizeof path, "/dev/%s", entry->d_name);
      const int fd = open(path, O_WRONLY | O_CLOEXEC);
      if (fd >= 0) {
        closedir(folder);
        return fd;
      }
    }
    if (folder != NULL) closedir(folder);
    nap(10);
  }
  errno = ENODEV;
  give_up("no virtio-serial port", wanted);
}

static void load_module(const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) give_up("cannot load", path);
  close(fd);
}

static void set_clock(const char* seconds) {
  // The plan's time is that of the start of the machine.
  const double since_boot = uptime();
  const struct timespec now = {.tv_sec = atoll(seconds) + (time_t)since_boot};
  clock_settime(CLOCK_REALTIME, &now);
}

// One command, its two output streams, and how far it has come.
struct running {
  pid_t pid;
  int streams[2];  // read ends of the pipes; -1: closed
  bool ended;
  int wait_status;
};

static int make_stream(int stream[2]) {
  if (pipe2(stream, O_CLOEXEC) != 0) return -1;
  // The larger it is, the less a command that prints much waits for the port.
  fcntl(stream[0], F_SETPIPE_SZ, 1 << 20);
  return 0;
}

static void start(struct running* command, int number, char** words, char** environment, const char* cwd) {
  int out[2];
  int err[2];
  if (make_stream(out) != 0 || make_stream(err) != 0) give_up("cannot make", "pipes");
  command->pid = fork();
  if (command->pid < 0) give_up("cannot fork for", words[0]);
  if (command->pid == 0) {
    setsid();
    signal(SIGPIPE, SIG_DFL);
    dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    if (chdir(cwd) != 0) give_up("cannot enter", cwd);
    environ = environment;
    execvp(words[0], words);
    tell("noexec %d %d", number, errno);
    _exit(127);
  }
  close(out[1]);
  close(err[1]);
  command->streams[0] = out[0];
  command->streams[1] = err[0];
  command->ended = false;
}

// Children of killed commands come to PID 1 as well.
static void reap(struct running* command) {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid != command->pid) continue;
    command->ended = true;
    command->wait_status = status;
  }
}

static void pump(struct running* command, const int ports[2]) {
  static char buffer[1 << 15];
  struct pollfd polled[2] = {{.fd = command->streams[0], .events = POLLIN},
                             {.fd = command->streams[1], .events = POLLIN}};
  if (poll(polled, 2, 20) <= 0) return;
  for (int i = 0; i < 2; ++i) {
    if (polled[i].revents == 0) continue;
    const ssize_t size = read(command->streams[i], buffer, sizeof buffer);
    if (size > 0) {
      write_all(ports[i], buffer, (size_t)size);
    } else if (size == 0 || errno != EINTR) {
      close(command->streams[i]);
      command->streams[i] = -1;
    }
  }
}

// Runs one command to its end. `limit`: uptime at which it is asked to end, and some seconds later made to.
static void run(int number, char** words, char** environment, const char* cwd, double limit,
                const int ports[2]) {
  struct running command = {.pid = -1};
  const double begun = uptime();
  double ended_at = 0;
  bool asked = false;
  start(&command, number, words, environment, cwd);
  while (!command.ended || command.streams[0] >= 0 || command.streams[1] >= 0) {
    const bool was_ended = command.ended;
    reap(&command);
    const double now = uptime();
    tell_alive(now);
    if (command.ended && !was_ended) ended_at = now;
    if (command.ended && now > ended_at + kDrainSeconds) break;
    if (!command.ended && !asked && now > limit) {
      asked = true;
      kill(-command.pid, SIGTERM);
    }
    if (asked && !command.ended && now > limit + kGraceSeconds) kill(-1, SIGKILL);
    pump(&command, ports);
  }
  for (int i = 0; i < 2; ++i) {
    if (command.streams[i] >= 0) close(command.streams[i]);
  }
  // What a command leaves behind must not disturb the next one.
  kill(-1, SIGKILL);
  while (waitpid(-1, NULL, 0) > 0) {
  }
  const double seconds = ended_at - begun;
  if (asked) {
    tell("timeout %d 0 %.1f", number, seconds);
  } else if (WIFSIGNALED(command.wait_status)) {
    tell("signal %d %d %.1f", number, WTERMSIG(command.wait_status), seconds);
  } else {
    tell("exit %d %d %.1f", number, WEXITSTATUS(command.wait_status), seconds);
  }
}

// The files to send home: names end with a zero byte, as tar --null reads them.
static FILE* new_files;
static unsigned long new_file_count;
static struct timespec newer_than;

static int note_if_new(const char* path, const struct stat* st, int type, struct FTW* where) {
  (void)where;
  // /proc and its like below a folder that was asked for.
  if (type == FTW_D && (strcmp(path, "/proc") == 0 || strcmp(path, "/sys") == 0 ||
                        strcmp(path, "/dev") == 0 || strcmp(path, "/nested") == 0))
    return FTW_SKIP_SUBTREE;
  const bool newer = st->st_ctim.tv_sec > newer_than.tv_sec ||
                     (st->st_ctim.tv_sec == newer_than.tv_sec && st->st_ctim.tv_nsec > newer_than.tv_nsec);
  if (!newer || !(S_ISREG(st->st_mode) || S_ISLNK(st->st_mode) || S_ISDIR(st->st_mode))) return FTW_CONTINUE;
  fwrite(path, 1, strlen(path) + 1, new_files);
  ++new_file_count;
  return FTW_CONTINUE;
}

static void send_files(char** folders, int count) {
  static char list[] = "/nested/new-files";
  new_files = fopen(list, "we");
  if (new_files == NULL) give_up("cannot write", list);
  for (int i = 0; i < count; ++i) nftw(folders[i], note_if_new, 32, FTW_PHYS | FTW_ACTIONRETVAL);
  fclose(new_files);
  if (new_file_count == 0) return;
  const int port = open_port("nested.files");
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(port, STDOUT_FILENO);
    execlp("tar", "tar", "--create", "--file=-", "--absolute-names", "--no-recursion", "--sparse", "--null",
           "--verbatim-files-from", "--files-from", list, NULL);
    _exit(127);
  }
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    tell_alive(uptime());
    nap(5);
  }
  if (status != 0) tell("fault tar could not send the files (wait status %d)", status);
  close(port);
}

// Files that exist already are older than this, also where the clock that stamps them goes in steps.
static void note_time(void) {
  nap(20);
  clock_gettime(CLOCK_REALTIME_COARSE, &newer_than);
  nap(20);
}

static char* read_plan(const char* path, size_t* size) {
  FILE* file = fopen(path, "re");
  struct stat st;
  if (file == NULL || fstat(fileno(file), &st) != 0) give_up("cannot read", path);
  char* text = malloc((size_t)st.st_size + 1);
  if (text == NULL) give_up("no memory for", path);
  *size = fread(text, 1, (size_t)st.st_size, file);
  text[*size] = '\0';
  fclose(file);
  return text;
}

int main(void) {
  mount_everything();
  status_port = open_port("nested.status");
  tell("booted %.2f", uptime());
  raise_loopback();
  const int ports[2] = {open_port("nested.out"), open_port("nested.err")};
  size_t size = 0;
  char* plan = read_plan("/nested/plan", &size);
  char* words[kMaxWords] = {NULL};
  char* environment[kMaxWords] = {NULL};
  char* bring[kMaxBring];
  char* cwd = "/";
  double limit = 300;
  int word_count = 0;
  int variable_count = 0;
  int bring_count = 0;
  int number = 0;
  for (char* record = plan; record < plan + size; record += strlen(record) + 1) {
    char* value = strchr(record, '=');
    if (value == NULL) continue;
    *value++ = '\0';
    if (strcmp(record, "clock") == 0) set_clock(value);
    if (strcmp(record, "limit") == 0) limit = atof(value);
    if (strcmp(record, "module") == 0) load_module(value);
    if (strcmp(record, "cwd") == 0) make_folders(cwd = value);
    if (strcmp(record, "bring") == 0 && bring_count < kMaxBring) bring[bring_count++] = value;
    if (strcmp(record, "env") == 0 && variable_count < kMaxWords - 1) {
      environment[variable_count++] = value;
      // The search for programs, tar among them, is ours as well.
      if (strncmp(value, "PATH=", 5) == 0) putenv(value);
    }
    if (strcmp(record, "arg") == 0 && word_count < kMaxWords - 1) words[word_count++] = value;
    if (strcmp(record, "run") == 0) {
      if (number == 0) {
        tell("kvm %s", access("/dev/kvm", R_OK | W_OK) == 0 ? "yes" : "no");
        note_time();
        limit += uptime();
      }
      words[word_count] = NULL;
      run(number++, words, environment, cwd, limit, ports);
      word_count = 0;
    }
    record = value;  // its own terminator was overwritten
  }
  send_files(bring, bring_count);
  tell("done");
  switch_off();
}
