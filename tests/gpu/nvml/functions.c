/* The driver's functions and structures: one line each. Names are the driver's own; structures are
 * named as pynvml names its ctypes twins, so that a test can compare the two. */
#include "standin.h"

#include <stdio.h>

#define FIELDS_c_nvmlUtilization_t(NUMBER, TEXT, GIVEN)                                            \
    NUMBER(unsigned, gpu) NUMBER(unsigned, memory)
#define FIELDS_c_nvmlMemory_t(NUMBER, TEXT, GIVEN)                                                 \
    NUMBER(uint64_t, total) NUMBER(uint64_t, free) NUMBER(uint64_t, used)
#define FIELDS_c_nvmlMemory_v2_t(NUMBER, TEXT, GIVEN)                                              \
    GIVEN(unsigned, version) NUMBER(uint64_t, total) NUMBER(uint64_t, reserved)                    \
    NUMBER(uint64_t, free) NUMBER(uint64_t, used)
#define FIELDS_nvmlPciInfo_t(NUMBER, TEXT, GIVEN)                                                  \
    TEXT(16, busIdLegacy) NUMBER(unsigned, domain) NUMBER(unsigned, bus) NUMBER(unsigned, device)  \
    NUMBER(unsigned, pciDeviceId) NUMBER(unsigned, pciSubSystemId) TEXT(32, busId)
#define FIELDS_c_nvmlTemperature_v1_t(NUMBER, TEXT, GIVEN)                                         \
    GIVEN(unsigned, version) GIVEN(unsigned, sensorType) NUMBER(int, temperature)

#define STRUCTS(EACH)                                                                              \
    EACH(c_nvmlUtilization_t)                                                                      \
    EACH(c_nvmlMemory_t)                                                                           \
    EACH(c_nvmlMemory_v2_t)                                                                        \
    EACH(nvmlPciInfo_t)                                                                            \
    EACH(c_nvmlTemperature_v1_t)

STRUCTS(STRUCT)

SYSTEM_TEXT(nvmlSystemGetDriverVersion)
SYSTEM_TEXT(nvmlSystemGetNVMLVersion)
SYSTEM_NUMBER(nvmlSystemGetCudaDriverVersion, int)
SYSTEM_NUMBER(nvmlSystemGetCudaDriverVersion_v2, int)

DEVICE_TEXT(nvmlDeviceGetName)
DEVICE_TEXT(nvmlDeviceGetUUID)
DEVICE_TEXT(nvmlDeviceGetSerial)
DEVICE_TEXT(nvmlDeviceGetVbiosVersion)
DEVICE_STRUCT(nvmlDeviceGetPciInfo_v3, nvmlPciInfo_t)
DEVICE_NUMBER(nvmlDeviceGetMinorNumber, unsigned)
DEVICE_TWO_NUMBERS(nvmlDeviceGetCudaComputeCapability, int, major, minor)

DEVICE_STRUCT(nvmlDeviceGetUtilizationRates, c_nvmlUtilization_t)
DEVICE_STRUCT(nvmlDeviceGetMemoryInfo, c_nvmlMemory_t)
DEVICE_VERSIONED(nvmlDeviceGetMemoryInfo_v2, c_nvmlMemory_v2_t, 0x02000028)
DEVICE_KEYED_NUMBER(nvmlDeviceGetTemperature, unsigned)
DEVICE_VERSIONED(nvmlDeviceGetTemperatureV, c_nvmlTemperature_v1_t, 0x0100000C)
DEVICE_NUMBER(nvmlDeviceGetPowerUsage, unsigned)
DEVICE_NUMBER(nvmlDeviceGetTotalEnergyConsumption, uint64_t)
DEVICE_KEYED_NUMBER(nvmlDeviceGetClockInfo, unsigned)

/* -- the layouts, for the test that compares them: lines of "structure size field:offset:size …" -- */

#define LINE(type, name)                                                                           \
    used += snprintf(out + used, size - used, " %s:%zu:%zu", #name, offsetof(self, name),          \
                     sizeof(((self *)0)->name));
#define LINES(structure)                                                                           \
    {                                                                                              \
        typedef structure self;                                                                    \
        used += snprintf(out + used, size - used, "%s %zu", #structure, sizeof(self));             \
        FIELDS_##structure(LINE, LINE, LINE)                                                       \
        used += snprintf(out + used, size - used, "\n");                                           \
    }

/* out must have room for all of it: 64 KiB do. */
API void nvml_standin_layouts(char *out, size_t size) {
    size_t used = 0;
    STRUCTS(LINES)
}
