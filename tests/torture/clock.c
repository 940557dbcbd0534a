/* Makes the wall clock of a program jump: every CLOCK_STEP-th reading moves it by as many
   seconds as the next of CLOCK_JUMPS says. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    static long readings, moved;
    static char *next;
    const char *step = getenv("CLOCK_STEP");
    if (!next) next = getenv("CLOCK_JUMPS");
    if (step && next && *next && ++readings % atol(step) == 0) {
        moved += strtol(next, &next, 10);
        if (*next == ',') next++;
        else next = getenv("CLOCK_JUMPS");
    }
    return moved;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *place) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (place) *place = precise.tv_sec;
    return precise.tv_sec;
}
