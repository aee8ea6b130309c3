/* Sets the clock of a program ahead, or back, while it runs: preloaded, it adds
 * the milliseconds that a file holds to the time of day. Monotonic clocks are
 * left alone, as they are when somebody sets the clock of a machine.
 *
 * It needs nothing from the C library: an allocator that asks for the time while
 * it begins would otherwise wait for itself. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *ahead;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("REDISTEST_CLOCK");
  int fd = path ? open(path, O_RDONLY) : -1;
  if (fd < 0)
    return;
  void *at = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED)
    ahead = at;
  close(fd);
}

int clock_gettime(clockid_t id, struct timespec *t) {
  if (syscall(SYS_clock_gettime, id, t) != 0)
    return -1;
  if (ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    long long ms = *ahead;
    t->tv_sec += ms / 1000;
    t->tv_nsec += ms % 1000 * 1000000;
    if (t->tv_nsec >= 1000000000) {
      t->tv_nsec -= 1000000000;
      t->tv_sec++;
    } else if (t->tv_nsec < 0) {
      t->tv_nsec += 1000000000;
      t->tv_sec--;
    }
  }
  return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0)
    return -1;
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *t) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0)
    return -1;
  if (t)
    *t = now.tv_sec;
  return now.tv_sec;
}
