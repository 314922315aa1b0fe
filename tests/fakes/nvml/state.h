/* Shared state of the stand-in: the control file's table, library state, counts. */
#ifndef STATE_H
#define STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define MAX_GPUS 64
#define EVERY_GPU (-2)
#define MIG_SCOPE(gpu, mig) (1000 + (gpu) * 100 + (mig))
#define IS_MIG_SCOPE(scope) ((scope) >= 1000)
#define MAX_EVENTS 4096

/* Guards everything below and the counts. */
extern pthread_mutex_t lock;

/* -- control.c: the control file; the lock is held -- */

extern char path[4096];
extern int order[MAX_GPUS], devices; /* GPU numbers by index, and their count */
extern int initialised;              /* nvmlInit calls without their nvmlShutdown */
extern int has_costs;                /* whether any line sets a cost */

struct event {
    long number;
    int gpu;
    uint64_t type, data;
};
extern struct event events[MAX_EVENTS];
extern int event_count;

unsigned hash(int scope, const char *function, const char *name);
void use_file(const char *file);
void refresh(void);
const char *find_exact(int scope, const char *function, const char *name);
const char *find(int gpu, const char *function, const char *name);

extern int waits_in_flight; /* events.c: waits for events */
extern unsigned uses;       /* standin.c: calls of nvml_standin_use */
extern int samples; /* gpm.c: samples not freed */

/* -- counts.c: call counts; the lock is held -- */

void open_counts(void);
void count_begin(const char *function, int gpu);
void count_end(const char *function, int gpu);
void count_cost(const char *function, int gpu, double microseconds, double spent);
void set_argument(const char *function, int gpu, uint64_t argument);
int device_calls_in_flight(void);

#endif
