/*
 * planted_race ROUNDS PAUSE SCHEDULER [ARG...]: stands in for a scheduler. Runs SCHEDULER, and once that is attached two
 * threads that count to ROUNDS each, with PAUSE empty loops between two steps, on one counter, without a lock. A step reads the counter
 * and writes it back plus one; an update is lost when both are between the two at once. Then this program says so and
 * exits with 3, and leaves SCHEDULER to be killed with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long counter;
static unsigned long rounds, pause_loops;

/* The state file has no event to wait for. */
static void await_enabled(void)
{
	const struct timespec tick = { 0, 5 * 1000 * 1000 };
	char text[32] = "";

	for (int i = 0; i < 4000 && strncmp(text, "enabled", 7) != 0; i++) {
		int fd = open("/sys/kernel/sched_ext/state", O_RDONLY);

		if (fd >= 0 && read(fd, text, sizeof(text) - 1) < 0)
			text[0] = 0;
		if (fd >= 0)
			close(fd);
		nanosleep(&tick, NULL);
	}
}

static void *count(void *unused)
{
	(void)unused;
	for (unsigned long i = 0; i < rounds; i++) {
		unsigned long seen = counter;

		__asm__ volatile("" : "+r"(seen));
		counter = seen + 1;
		for (unsigned long j = 0; j < pause_loops; j++)
			__asm__ volatile("");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[2];
	sigset_t signals, old;
	int signal_number;
	pid_t pid;

	if (argc < 4)
		return 2;
	rounds = strtoul(argv[1], NULL, 10);
	pause_loops = strtoul(argv[2], NULL, 10);
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, &old);

	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGINT);
		sigprocmask(SIG_SETMASK, &old, NULL);
		execv(argv[3], argv + 3);
		_exit(127);
	}
	await_enabled();
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, count, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	if (counter != 2 * rounds) {
		printf("lost update: counted to %lu, not to %lu\n", counter, 2 * rounds);
		return 3;
	}
	printf("counted to %lu\n", counter);
	sigwait(&signals, &signal_number);
	kill(pid, SIGINT);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}
