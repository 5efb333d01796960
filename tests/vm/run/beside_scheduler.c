/*
 * beside_scheduler SCHEDULER [ARG...] -- COMMAND [ARG...]: stands in for a scheduler. Runs SCHEDULER until SIGINT or SIGTERM
 * comes, which it hands on; while SCHEDULER is enabled, COMMAND is run once a second, its output between the lines
 * "beside: begin" and "beside: end". So a tool in the guest can say what it sees of the scheduler at work.
 *
 * With --in CGROUP before COMMAND, that cgroup is made, a process that sleeps and runs is put into it, and COMMAND is run
 * once and stays: a scheduler for this cgroup below the first one. It is stopped first.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int enabled(void)
{
	char text[32] = "";
	int fd = open("/sys/kernel/sched_ext/state", O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	return size > 0 && strncmp(text, "enabled", 7) == 0;
}

static pid_t start(char **argv, const sigset_t *mask)
{
	pid_t pid = fork();

	if (pid == 0) {
		sigprocmask(SIG_SETMASK, mask, NULL);
		execv(argv[0], argv);
		fprintf(stderr, "beside: %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	return pid;
}

static int reap(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void say(const char *line)
{
	puts(line);
	fflush(stdout);
}

/* A process in a cgroup of its own; 0 when there cannot be one. */
static pid_t start_member(const char *cgroup, const sigset_t *mask)
{
	const struct timespec tick = { 0, 1000 * 1000 };
	char path[256];
	pid_t pid;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	if (mkdir(cgroup, 0755) != 0 && errno != EEXIST)
		return 0;
	pid = fork();
	if (pid == 0) {
		int fd = open(path, O_WRONLY);

		sigprocmask(SIG_SETMASK, mask, NULL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "member");
		if (fd < 0 || write(fd, "0", 1) != 1)
			_exit(1);
		close(fd);
		for (;;)
			nanosleep(&tick, NULL);
	}
	return pid;
}

static void end(pid_t pid, int signal)
{
	if (pid <= 0)
		return;
	kill(pid, signal);
	reap(pid);
}

int main(int argc, char **argv)
{
	const struct timespec second = { 1, 0 };
	const char *cgroup = NULL;
	pid_t member = 0, below = 0;
	char **command = argv + 1;
	sigset_t signals, before;
	pid_t scheduler;

	while (*command != NULL && strcmp(*command, "--") != 0)
		command++;
	if (argc < 4 || *command == NULL || command[1] == NULL)
		return 2;
	*command++ = NULL;
	if (strcmp(command[0], "--in") == 0 && command[1] != NULL && command[2] != NULL) {
		cgroup = command[1];
		command += 2;
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, &before);
	scheduler = start(argv + 1, &before);
	for (;;) {
		int signal = sigtimedwait(&signals, NULL, &second);

		if (signal == SIGINT || signal == SIGTERM) {
			end(below, signal);
			end(member, SIGKILL);
			if (cgroup != NULL)
				rmdir(cgroup);
			kill(scheduler, signal);
			return reap(scheduler);
		}
		if (signal == SIGCHLD) {
			int status;

			if (waitpid(scheduler, &status, WNOHANG) == scheduler)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		if (!enabled() || below > 0)
			continue;
		if (cgroup != NULL) {
			member = start_member(cgroup, &before);
			below = start(command, &before);
			continue;
		}
		say("beside: begin");
		reap(start(command, &before));
		say("beside: end");
	}
}
