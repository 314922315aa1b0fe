/* The control file: a table from (scope, function, name) to text. standin.c describes the file. */
#include "state.h"
#include "standin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUCKETS 4096

/* Its texts are parts of `content`. */
struct entry {
    struct entry *next;
    int scope;
    char *function, *name, *text;
};

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
char path[4096];
int order[MAX_GPUS], devices, initialised, has_costs;
struct event events[MAX_EVENTS];
int event_count;
static long epoch;
static struct stat seen;
static char *content; /* of the file, whose lines and words end with zero bytes */
static struct entry *entries;
static size_t entry_count;
static struct entry *table[BUCKETS];

unsigned hash(int scope, const char *function, const char *name) {
    unsigned value = 2166136261u ^ (unsigned)scope;
    for (; *function; function++) value = (value ^ (unsigned char)*function) * 16777619u;
    value = (value ^ ' ') * 16777619u;
    for (; *name; name++) value = (value ^ (unsigned char)*name) * 16777619u;
    return value;
}

/* Replaces \xHH by the byte, in place; a zero byte ends the text. */
static void unescape(char *text) {
    char *out = text;
    while (*text) {
        if (text[0] == '\\' && text[1] == 'x' && text[2] && text[3]) {
            char digits[3] = {text[2], text[3], 0};
            *out++ = (char)strtol(digits, NULL, 16);
            text += 4;
        } else {
            *out++ = *text++;
        }
    }
    *out = 0;
}

static void read_line(char *line) {
    char *rest = line, *scope = strsep(&rest, " "), *function = strsep(&rest, " ");
    if (!scope || !*scope || *scope == '#' || !function) return;
    if (!strcmp(scope, "order")) {
        devices = 0;
        for (char *word = function; word; word = strsep(&rest, " "))
            if (*word && devices < MAX_GPUS) order[devices++] = atoi(word);
    } else if (!strcmp(scope, "event")) {
        if (event_count < MAX_EVENTS && rest) {
            struct event *event = &events[event_count++];
            event->number = atol(function), event->gpu = (int)strtol(rest, &rest, 0);
            event->type = strtoull(rest, &rest, 0), event->data = strtoull(rest, &rest, 0);
        }
    } else if (!strcmp(scope, "epoch")) {
        long number = atol(function);
        if (number != epoch) initialised = samples = 0;
        epoch = number;
    } else {
        char *name = strsep(&rest, " ");
        if (!name) return;
        struct entry *entry = &entries[entry_count++];
        const char *mig = strchr(scope, '/');
        entry->scope = !strcmp(scope, "system") ? SYSTEM : *scope == '*' ? EVERY_GPU : atoi(scope);
        if (mig) entry->scope = MIG_SCOPE(entry->scope, atoi(mig + 1));
        size_t length = strlen(name);
        entry->function = function, entry->name = name;
        entry->text = rest ? rest : name + length;
        if (rest && strchr(rest, '\\')) unescape(rest);
        has_costs |= length >= 4 && !strcmp(name + length - 4, "cost");
        struct entry **bucket = &table[hash(entry->scope, function, name) % BUCKETS];
        entry->next = *bucket, *bucket = entry; /* a later line overrides an earlier one */
    }
}

void use_file(const char *file) {
    snprintf(path, sizeof path, "%s", file);
    memset(&seen, 0, sizeof seen);
    initialised = 0;
    refresh();
}

/* Returns the file's text, with its status; NULL if it cannot be read. */
static char *read_file(struct stat *status) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return NULL;
    char *text = fstat(file, status) == 0 ? malloc((size_t)status->st_size + 1) : NULL;
    ssize_t length = 0, more = 1;
    while (text && length < status->st_size && more > 0)
        if ((more = read(file, text + length, (size_t)(status->st_size - length))) > 0)
            length += more;
    close(file);
    if (text) text[length] = 0;
    return text;
}

/* Reads the file again if it was replaced. */
void refresh(void) {
    struct stat now;
    if (!*path) {
        const char *named = getenv("NVML_STANDIN_FILE");
        snprintf(path, sizeof path, "%s", named ? named : "/dev/null");
    }
    if (stat(path, &now) != 0) return;
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    char *text = read_file(&now);
    if (!text) return;
    seen = now;
    free(content), free(entries);
    content = text;
    size_t lines = 1;
    for (const char *end = text; (end = strchr(end, '\n')); end++) lines++;
    entries = malloc(lines * sizeof *entries), entry_count = 0;
    memset(table, 0, sizeof table);
    event_count = has_costs = 0;
    for (char *line; (line = strsep(&text, "\n"));) read_line(line);
}

const char *find_exact(int scope, const char *function, const char *name) {
    for (struct entry *entry = table[hash(scope, function, name) % BUCKETS]; entry; entry = entry->next)
        if (entry->scope == scope && !strcmp(entry->function, function) &&
            !strcmp(entry->name, name))
            return entry->text;
    return NULL;
}

/* Returns the most specific line: this GPU before every GPU, this function before all. */
const char *find(int gpu, const char *function, const char *name) {
    const char *text = find_exact(gpu, function, name);
    if (!text) text = find_exact(gpu, "*", name);
    if (IS_MIG_SCOPE(gpu)) return text;
    if (!text && gpu != SYSTEM) text = find_exact(EVERY_GPU, function, name);
    if (!text && gpu != SYSTEM) text = find_exact(EVERY_GPU, "*", name);
    return text;
}
