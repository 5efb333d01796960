/*
 * beside_scheduler SCHEDULER [ARG...] -- COMMAND [ARG...]: stands in for a scheduler. Runs SCHEDULER until SIGINT or SIGTERM
 * comes, which it hands on; while SCHEDULER is enabled, COMMAND is run once a second, its output between the lines
 * "beside: begin" and "beside: end". So a tool in the guest can say what it sees of the scheduler at work.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
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

int main(int argc, char **argv)
{
	const struct timespec second = { 1, 0 };
	char **command = argv + 1;
	sigset_t signals, before;
	pid_t scheduler;

	while (*command != NULL && strcmp(*command, "--") != 0)
		command++;
	if (argc < 4 || *command == NULL || command[1] == NULL)
		return 2;
	*command++ = NULL;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, &before);
	scheduler = start(argv + 1, &before);
	for (;;) {
		int signal = sigtimedwait(&signals, NULL, &second);

		if (signal == SIGINT || signal == SIGTERM) {
			kill(scheduler, signal);
			return reap(scheduler);
		}
		if (signal == SIGCHLD) {
			int status;

			if (waitpid(scheduler, &status, WNOHANG) == scheduler)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		if (!enabled())
			continue;
		say("beside: begin");
		reap(start(command, &before));
		say("beside: end");
	}
}
