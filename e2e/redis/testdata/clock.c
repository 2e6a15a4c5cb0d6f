// A clock that steps, for a redis-server that is started with this preloaded: CLOCK_OFFSET names a file of 8 bytes,
// the seconds by which its clock is ahead. (Debian's libfaketime ends in a recursion with redis-server's allocator.)
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static volatile long *ahead;

int gettimeofday(struct timeval *tv, void *zone) {
  if (!ahead) {
    ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, open(getenv("CLOCK_OFFSET"), O_RDONLY), 0);
  }
  long failed = syscall(SYS_gettimeofday, tv, zone);
  tv->tv_sec += *ahead;
  return failed;
}
