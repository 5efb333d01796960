/*
 * attach_cycles COUNT SCHEDULER [ARG...]: stands in for a scheduler. Runs SCHEDULER until SIGINT comes, then attaches and
 * detaches it COUNT times more and exits. Each attach and detach flips static keys in running kernel code, which is where
 * emulators (and kernels) break.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char state_file[] = "/sys/kernel/sched_ext/state";

static int state_is(const char *wanted)
{
	char text[32] = "";
	int fd = open(state_file, O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	return size > 0 && strncmp(text, wanted, strlen(wanted)) == 0;
}

/* The state file has no event to wait for. 20 s of guest time, then give up. */
static void await_state(const char *wanted)
{
	const struct timespec pause = { 0, 5 * 1000 * 1000 };

	for (int i = 0; i < 4000; i++) {
		if (state_is(wanted))
			return;
		nanosleep(&pause, NULL);
	}
	printf("state did not become %s\n", wanted);
	exit(1);
}

static pid_t start(char **argv, const sigset_t *mask)
{
	pid_t pid = fork();

	if (pid == 0) {
		sigprocmask(SIG_SETMASK, mask, NULL);
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

int main(int argc, char **argv)
{
	sigset_t signals, old;
	int signal_number, count;
	pid_t pid;

	if (argc < 3)
		return 2;
	count = atoi(argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, &old);

	pid = start(argv + 2, &old);
	sigwait(&signals, &signal_number);
	reap(pid);
	for (int i = 0; i < count; i++) {
		await_state("disabled");
		pid = start(argv + 2, &old);
		await_state("enabled");
		kill(pid, SIGINT);
		reap(pid);
		printf("cycle %d\n", i + 1);
	}
	await_state("disabled");
	printf("all %d cycles done\n", count);
	return 0;
}
