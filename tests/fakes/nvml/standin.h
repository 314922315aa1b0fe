/* What functions.c, the table of the driver's functions, is written in.
 *
 * Every function is one line: the shape of its arguments, its name, and where it fills a structure
 * the name of that structure. A structure is one FIELDS_ line: declaration, filling and the layout
 * that a test compares with pynvml's all come from it.
 */
#ifndef STANDIN_H
#define STANDIN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define API __attribute__((visibility("default")))

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    MEMORY = 20,
    GPU_NOT_FOUND = 28,
    ARGUMENT_VERSION_MISMATCH = 25,
};

#define SYSTEM (-1)
#define NO_SLICE (-1)
#define NO_KEY ((const char *)0)

typedef void *handle_t;

/* One call in progress: counted from begin to end, delayed and failed as the control file says. */
struct call {
    const char *function;
    int gpu;
    int scope; /* where its values stand: the GPU's, or those of one of its slices */
    const char *key; /* which of several: the clock's type, the sensor; NO_KEY for most */
    int result;
};

struct call call_begin(const char *function, int gpu, const char *key);
struct call call_begin_device(const char *function, handle_t handle, const char *key);
int call_end(struct call *call);
handle_t make_handle(int gpu, int slice); /* slice: NO_SLICE for the GPU itself */
int gpu_of(handle_t handle);

/* What the control file gives for the call under this name. A missing one makes the call
 * NOT_SUPPORTED: what a card does not have is simply not in its file. */
uint64_t give_number(struct call *call, const char *name);
void give_text(struct call *call, const char *name, char *out, size_t size);

/* -- shapes: functions of the whole system -- */

#define SYSTEM_NUMBER(name, type)                                                                  \
    API int name(type *out) {                                                                      \
        struct call call = call_begin(#name, SYSTEM, NO_KEY);                                      \
        uint64_t value = give_number(&call, "value");                                              \
        if (call.result == SUCCESS) *out = (type)value;                                            \
        return call_end(&call);                                                                    \
    }

#define SYSTEM_TEXT(name)                                                                          \
    API int name(char *out, unsigned size) {                                                       \
        struct call call = call_begin(#name, SYSTEM, NO_KEY);                                      \
        give_text(&call, "value", out, size);                                                      \
        return call_end(&call);                                                                    \
    }

/* -- shapes: functions of one GPU -- */

#define DEVICE_NUMBER(name, type)                                                                  \
    API int name(handle_t device, type *out) {                                                     \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        uint64_t value = give_number(&call, "value");                                              \
        if (call.result == SUCCESS) *out = (type)value;                                            \
        return call_end(&call);                                                                    \
    }

#define DEVICE_TWO_NUMBERS(name, type, first, second)                                              \
    API int name(handle_t device, type *first, type *second) {                                     \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        uint64_t one = give_number(&call, #first), two = give_number(&call, #second);              \
        if (call.result == SUCCESS) *first = (type)one, *second = (type)two;                       \
        return call_end(&call);                                                                    \
    }

/* The number belongs to a key that the caller gives: `nvmlDeviceGetClockInfo 1 = …`. */
#define DEVICE_KEYED_NUMBER(name, type)                                                            \
    API int name(handle_t device, unsigned key, type *out) {                                       \
        char text[16];                                                                             \
        struct call call = call_begin_device(#name, device, key_text(text, key));                  \
        uint64_t value = give_number(&call, text);                                                 \
        if (call.result == SUCCESS) *out = (type)value;                                            \
        return call_end(&call);                                                                    \
    }

#define DEVICE_THREE_NUMBERS(name, type, first, second, third)                                    \
    API int name(handle_t device, type *first, type *second, type *third) {                        \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        uint64_t one = give_number(&call, #first), two = give_number(&call, #second);              \
        uint64_t three = give_number(&call, #third);                                               \
        if (call.result == SUCCESS)                                                                \
            *first = (type)one, *second = (type)two, *third = (type)three;                         \
        return call_end(&call);                                                                    \
    }

#define DEVICE_KEYED_TEXT(name)                                                                    \
    API int name(handle_t device, unsigned key, char *out, unsigned size) {                        \
        char text[16];                                                                             \
        struct call call = call_begin_device(#name, device, key_text(text, key));                  \
        give_text(&call, text, out, size);                                                         \
        return call_end(&call);                                                                    \
    }

#define DEVICE_TEXT(name)                                                                          \
    API int name(handle_t device, char *out, unsigned size) {                                      \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        give_text(&call, "value", out, size);                                                      \
        return call_end(&call);                                                                    \
    }

/* A structure without a version: all its fields are filled. */
#define DEVICE_STRUCT(name, structure)                                                             \
    API int name(handle_t device, structure *out) {                                                \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        structure filled;                                                                          \
        memset(&filled, 0, sizeof filled);                                                         \
        FIELDS_##structure(FILL_NUMBER, FILL_TEXT, SKIP);                                          \
        if (call.result == SUCCESS) *out = filled;                                                 \
        return call_end(&call);                                                                    \
    }

/* A structure with a version, which must be the one the caller wrote. */
#define DEVICE_VERSIONED(name, structure, number)                                                  \
    API int name(handle_t device, structure *out) {                                                \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        structure filled = *out;                                                                   \
        if (call.result == SUCCESS && out->version != (number))                                    \
            call.result = ARGUMENT_VERSION_MISMATCH;                                               \
        FIELDS_##structure(FILL_NUMBER, FILL_TEXT, SKIP);                                          \
        if (call.result == SUCCESS) *out = filled;                                                 \
        return call_end(&call);                                                                    \
    }

/* -- structures: NUMBER(type, name), TEXT(size, name), GIVEN(type, name) for what the caller gives */

#define DECLARE_NUMBER(type, name) type name;
#define DECLARE_TEXT(size, name) char name[size];
#define FILL_NUMBER(type, name) filled.name = (type)give_number(&call, #name);
#define FILL_TEXT(size, name) give_text(&call, #name, filled.name, size);
#define SKIP(type, name)
#define STRUCT(structure)                                                                          \
    typedef struct {                                                                               \
        FIELDS_##structure(DECLARE_NUMBER, DECLARE_TEXT, DECLARE_NUMBER)                           \
    } structure;

const char *key_text(char *text, unsigned key);

#endif
