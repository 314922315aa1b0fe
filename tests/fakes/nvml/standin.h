/* Macros for functions.c, the table of NVML functions.
 *
 * Every function is one line: a macro for its signature, its name, and the structure it fills, if
 * any. A structure is one FIELDS_ line, which expands to its declaration, to the code that fills it
 * and to the layout that a test compares with pynvml's.
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
#define NO_MIG (-1)
#define NO_KEY ((const char *)0)

typedef void *handle_t;

/* A call in flight: counted from begin to end, with the control file's delay and return code. */
struct call {
    const char *function;
    int gpu;
    int scope; /* of its values: the GPU, or one of its MIG devices */
    const char *key; /* selector argument: the clock's type, the sensor; NO_KEY for most */
    int result;
    double cost; /* CPU microseconds that the call takes, at least; 0 without costs */
    double started; /* CPU microseconds of the thread when it began */
};

struct call call_begin(const char *function, int gpu, const char *key);
struct call call_begin_device(const char *function, handle_t handle, const char *key);
int call_end(struct call *call);
handle_t make_handle(int gpu, int mig); /* mig: NO_MIG for the GPU */
int gpu_of(handle_t handle);

/* Look up the call's value of this name in the control file. A missing value makes the call return
 * NOT_SUPPORTED: the file of a card omits what the card does not support. */
uint64_t get_number(struct call *call, const char *name);
void get_text(struct call *call, const char *name, char *out, size_t size);
double cost_of(const struct call *call, const char *name); /* the lock is held */

/* -- signatures: system functions -- */

#define SYSTEM_NUMBER(name, type)                                                                  \
    API int name(type *out) {                                                                      \
        struct call call = call_begin(#name, SYSTEM, NO_KEY);                                      \
        uint64_t value = get_number(&call, "value");                                               \
        if (call.result == SUCCESS) *out = (type)value;                                            \
        return call_end(&call);                                                                    \
    }

#define SYSTEM_TEXT(name)                                                                          \
    API int name(char *out, unsigned size) {                                                       \
        struct call call = call_begin(#name, SYSTEM, NO_KEY);                                      \
        get_text(&call, "value", out, size);                                                       \
        return call_end(&call);                                                                    \
    }

/* -- signatures: functions of one GPU -- */

#define DEVICE_NUMBER(name, type)                                                                  \
    API int name(handle_t device, type *out) {                                                     \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        uint64_t value = get_number(&call, "value");                                               \
        if (call.result == SUCCESS) *out = (type)value;                                            \
        return call_end(&call);                                                                    \
    }

#define DEVICE_TWO_NUMBERS(name, type, first, second)                                              \
    API int name(handle_t device, type *first, type *second) {                                     \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        uint64_t value1 = get_number(&call, #first), value2 = get_number(&call, #second);          \
        if (call.result == SUCCESS) *first = (type)value1, *second = (type)value2;                 \
        return call_end(&call);                                                                    \
    }

/* The caller's selector is the NAME: `0 nvmlDeviceGetClockInfo 1 1980`. */
#define DEVICE_KEYED_NUMBER(name, type)                                                            \
    API int name(handle_t device, unsigned key, type *out) {                                       \
        char text[16];                                                                             \
        struct call call = call_begin_device(#name, device, key_text(text, key));                  \
        uint64_t value = get_number(&call, text);                                                  \
        if (call.result == SUCCESS) *out = (type)value;                                            \
        return call_end(&call);                                                                    \
    }

#define DEVICE_THREE_NUMBERS(name, type, first, second, third)                                     \
    API int name(handle_t device, type *first, type *second, type *third) {                        \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        uint64_t value1 = get_number(&call, #first), value2 = get_number(&call, #second);          \
        uint64_t value3 = get_number(&call, #third);                                               \
        if (call.result == SUCCESS)                                                                \
            *first = (type)value1, *second = (type)value2, *third = (type)value3;                  \
        return call_end(&call);                                                                    \
    }

#define DEVICE_KEYED_TEXT(name)                                                                    \
    API int name(handle_t device, unsigned key, char *out, unsigned size) {                        \
        char text[16];                                                                             \
        struct call call = call_begin_device(#name, device, key_text(text, key));                  \
        get_text(&call, text, out, size);                                                          \
        return call_end(&call);                                                                    \
    }

#define DEVICE_TEXT(name)                                                                          \
    API int name(handle_t device, char *out, unsigned size) {                                      \
        struct call call = call_begin_device(#name, device, NO_KEY);                               \
        get_text(&call, "value", out, size);                                                       \
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

/* A structure with a version, which must match the caller's. */
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

/* -- structures: NUMBER(type, name), TEXT(size, name), INPUT(type, name) for the caller's fields */

#define DECLARE_NUMBER(type, name) type name;
#define DECLARE_TEXT(size, name) char name[size];
#define FILL_NUMBER(type, name) filled.name = (type)get_number(&call, #name);
#define FILL_TEXT(size, name) get_text(&call, #name, filled.name, size);
#define SKIP(type, name)
#define STRUCT(structure)                                                                          \
    typedef struct {                                                                               \
        FIELDS_##structure(DECLARE_NUMBER, DECLARE_TEXT, DECLARE_NUMBER)                           \
    } structure;

const char *key_text(char *text, unsigned key);

#endif
