/* What the files of the mechanism share: the control file's table, the state, the counts. */
#ifndef STATE_H
#define STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define MAX_GPUS 64
#define EVERY_GPU (-2)
#define SLICE(gpu, slice) (1000 + (gpu) * 100 + (slice)) /* a slice's scope */
#define IS_SLICE(scope) ((scope) >= 1000)
#define MAX_EVENTS 4096

/* Guards everything below and the counts. */
extern pthread_mutex_t lock;

/* -- control.c: what the control file says; the lock is held -- */

extern char path[4096];
extern int order[MAX_GPUS], devices; /* the GPUs' numbers by index, and how many there are */
extern int initialised;              /* how many nvmlInit are not yet undone */

struct event {
    long number;
    int gpu;
    uint64_t type, data;
};
extern struct event happened[MAX_EVENTS];
extern int happenings;

unsigned hash(int scope, const char *function, const char *name);
void use_file(const char *file);
void refresh(void);
const char *find_exact(int scope, const char *function, const char *name);
const char *find(int gpu, const char *function, const char *name);

extern int waiting; /* events.c: waits for events under way */
extern int samples; /* gpm.c: samples that are not freed */

/* -- counts.c: what was asked; the lock is held -- */

void open_counts(void);
void count_begin(const char *function, int gpu);
void count_end(const char *function, int gpu);
void note_argument(const char *function, int gpu, uint64_t argument);
int device_calls_in_flight(void);

#endif
