/* NVML's structures, one line each, named as pynvml's ctypes structures, so that a test can compare
 * them. INPUT: filled by the caller. */
#ifndef STRUCTURES_H
#define STRUCTURES_H

#include "standin.h"

#define FIELDS_c_nvmlUtilization_t(NUMBER, TEXT, INPUT)                                            \
    NUMBER(unsigned, gpu) NUMBER(unsigned, memory)
#define FIELDS_c_nvmlMemory_t(NUMBER, TEXT, INPUT)                                                 \
    NUMBER(uint64_t, total) NUMBER(uint64_t, free) NUMBER(uint64_t, used)
#define FIELDS_c_nvmlMemory_v2_t(NUMBER, TEXT, INPUT)                                              \
    INPUT(unsigned, version) NUMBER(uint64_t, total) NUMBER(uint64_t, reserved)                    \
    NUMBER(uint64_t, free) NUMBER(uint64_t, used)
#define FIELDS_c_nvmlBAR1Memory_t(NUMBER, TEXT, INPUT)                                             \
    NUMBER(uint64_t, bar1Total) NUMBER(uint64_t, bar1Free) NUMBER(uint64_t, bar1Used)
#define FIELDS_nvmlPciInfo_t(NUMBER, TEXT, INPUT)                                                  \
    TEXT(16, busIdLegacy) NUMBER(unsigned, domain) NUMBER(unsigned, bus) NUMBER(unsigned, device)  \
    NUMBER(unsigned, pciDeviceId) NUMBER(unsigned, pciSubSystemId) TEXT(32, busId)
#define FIELDS_c_nvmlTemperature_v1_t(NUMBER, TEXT, INPUT)                                         \
    INPUT(unsigned, version) INPUT(unsigned, sensorType) NUMBER(int, temperature)
#define FIELDS_c_nvmlMarginTemperature_v1_t(NUMBER, TEXT, INPUT)                                   \
    INPUT(unsigned, version) NUMBER(int, marginTemperature)
#define FIELDS_c_nvmlRowRemapperHistogramValues(NUMBER, TEXT, INPUT)                               \
    NUMBER(unsigned, max) NUMBER(unsigned, high) NUMBER(unsigned, partial) NUMBER(unsigned, low)   \
    NUMBER(unsigned, none)
#define FIELDS_c_nvmlEccSramErrorStatus_v1_t(NUMBER, TEXT, INPUT)                                  \
    INPUT(unsigned, version)                                                                       \
    NUMBER(uint64_t, aggregateUncParity) NUMBER(uint64_t, aggregateUncSecDed)                      \
    NUMBER(uint64_t, aggregateCor) NUMBER(uint64_t, volatileUncParity)                             \
    NUMBER(uint64_t, volatileUncSecDed) NUMBER(uint64_t, volatileCor)                              \
    NUMBER(uint64_t, aggregateUncBucketL2) NUMBER(uint64_t, aggregateUncBucketSm)                  \
    NUMBER(uint64_t, aggregateUncBucketPcie) NUMBER(uint64_t, aggregateUncBucketMcu)               \
    NUMBER(uint64_t, aggregateUncBucketOther) NUMBER(unsigned, bThresholdExceeded)
#define FIELDS_c_nvmlGpuFabricInfo_v2_t(NUMBER, TEXT, INPUT)                                       \
    INPUT(unsigned, version) TEXT(16, clusterUuid) NUMBER(int, status) NUMBER(unsigned, cliqueId)  \
    NUMBER(unsigned, state) NUMBER(unsigned, healthMask)
#define FIELDS_c_nvmlGpuFabricInfo_v3_t(NUMBER, TEXT, INPUT)                                       \
    FIELDS_c_nvmlGpuFabricInfo_v2_t(NUMBER, TEXT, INPUT) NUMBER(uint8_t, healthSummary)
#define FIELDS_c_nvmlGpuFabricClique_v1_t(NUMBER, TEXT, INPUT)                                     \
    NUMBER(uint8_t, type) NUMBER(unsigned, id)
/* cliques: 64 structures, written by lists.c. */
#define FIELDS_c_nvmlGpuFabricInfo_v4_t(NUMBER, TEXT, INPUT)                                       \
    TEXT(16, clusterUuid) NUMBER(int, status) INPUT(fabric_cliques, cliques)                       \
    INPUT(unsigned, numCliques) NUMBER(uint8_t, state) NUMBER(unsigned, healthMask)                \
    NUMBER(uint8_t, healthSummary)
#define FIELDS_c_nvmlUnrepairableMemory_v1_t(NUMBER, TEXT, INPUT)                                  \
    INPUT(unsigned, version) NUMBER(unsigned, unrepairableMemory)
#define FIELDS_c_nvmlRepairStatus_t(NUMBER, TEXT, INPUT)                                           \
    INPUT(unsigned, version) NUMBER(unsigned, bChannelRepairPending)                               \
    NUMBER(unsigned, bTpcRepairPending)
#define FIELDS_c_nvmlDramEncryptionInfo_t(NUMBER, TEXT, INPUT)                                     \
    INPUT(unsigned, version) NUMBER(unsigned, encryptionState)
#define FIELDS_c_nvmlDeviceAddressingMode_t(NUMBER, TEXT, INPUT)                                   \
    INPUT(unsigned, version) NUMBER(unsigned, value)
/* Masks and pointers: lists, written by lists.c. */
#define FIELDS_c_nvmlWorkloadPowerProfileCurrentProfiles_v1_t(NUMBER, TEXT, INPUT)                 \
    INPUT(unsigned, version) INPUT(mask_255, perfProfilesMask)                                     \
    INPUT(mask_255, requestedProfilesMask) INPUT(mask_255, enforcedProfilesMask)
#define FIELDS_c_nvmlEccSramUniqueUncorrectedErrorEntry_v1_t(NUMBER, TEXT, INPUT)                  \
    NUMBER(unsigned, unit) NUMBER(unsigned, location) NUMBER(unsigned, sublocation)                \
    NUMBER(unsigned, extlocation) NUMBER(unsigned, address) NUMBER(unsigned, isParity)             \
    NUMBER(unsigned, count)
#define FIELDS_c_nvmlEccSramUniqueUncorrectedErrorCounts_v1_t(NUMBER, TEXT, INPUT)                 \
    INPUT(unsigned, version) INPUT(unsigned, entryCount)                                           \
    INPUT(c_nvmlEccSramUniqueUncorrectedErrorEntry_v1_t *, entries)
#define FIELDS_c_nvmlGetMemoryLimits_v1_t(NUMBER, TEXT, INPUT)                                     \
    INPUT(char *, nameSpace) NUMBER(uint64_t, softLimit) NUMBER(uint64_t, hardLimit)               \
    NUMBER(uint64_t, currentUsed)
#define FIELDS_c_nvmlConfComputeSystemState_t(NUMBER, TEXT, INPUT)                                 \
    NUMBER(unsigned, environment) NUMBER(unsigned, ccFeature) NUMBER(unsigned, devToolsMode)
#define FIELDS_c_nvmlDeviceAttributes(NUMBER, TEXT, INPUT)                                         \
    NUMBER(unsigned, multiprocessorCount) NUMBER(unsigned, sharedCopyEngineCount)                  \
    NUMBER(unsigned, sharedDecoderCount) NUMBER(unsigned, sharedEncoderCount)                      \
    NUMBER(unsigned, sharedJpegCount) NUMBER(unsigned, sharedOfaCount)                             \
    NUMBER(unsigned, gpuInstanceSliceCount) NUMBER(unsigned, computeInstanceSliceCount)            \
    NUMBER(uint64_t, memorySizeMB)
#define FIELDS_c_nvmlGpmSupport_t(NUMBER, TEXT, INPUT)                                             \
    INPUT(unsigned, version) NUMBER(unsigned, isSupportedDevice)
/* value: a union of numbers, written by fields.c. */
#define FIELDS_c_nvmlFieldValue_t(NUMBER, TEXT, INPUT)                                             \
    INPUT(unsigned, fieldId) INPUT(unsigned, scopeId) NUMBER(int64_t, timestamp)                   \
    NUMBER(int64_t, latencyUsec) NUMBER(int, valueType) NUMBER(int, nvmlReturn)                    \
    NUMBER(uint64_t, value)
#define FIELDS_c_metricInfo_t(NUMBER, TEXT, INPUT)                                                 \
    NUMBER(char *, shortName) NUMBER(char *, longName) NUMBER(char *, unit)
#define FIELDS_c_nvmlGpmMetric_t(NUMBER, TEXT, INPUT)                                              \
    INPUT(unsigned, metricId) NUMBER(int, nvmlReturn) NUMBER(double, value)                        \
    NUMBER(c_metricInfo_t, metricInfo)
#define FIELDS_c_nvmlProcessInfo_v2_t(NUMBER, TEXT, INPUT)                                         \
    NUMBER(unsigned, pid) NUMBER(uint64_t, usedGpuMemory) NUMBER(unsigned, gpuInstanceId)          \
    NUMBER(unsigned, computeInstanceId)
#define FIELDS_c_nvmlProcessUtilizationSample_t(NUMBER, TEXT, INPUT)                               \
    NUMBER(unsigned, pid) NUMBER(uint64_t, timeStamp) NUMBER(unsigned, smUtil)                     \
    NUMBER(unsigned, memUtil) NUMBER(unsigned, encUtil) NUMBER(unsigned, decUtil)
#define FIELDS_c_nvmlProcessUtilizationInfo_v1_t(NUMBER, TEXT, INPUT)                              \
    NUMBER(uint64_t, timeStamp) NUMBER(unsigned, pid) NUMBER(unsigned, smUtil)                     \
    NUMBER(unsigned, memUtil) NUMBER(unsigned, encUtil) NUMBER(unsigned, decUtil)                  \
    NUMBER(unsigned, jpgUtil) NUMBER(unsigned, ofaUtil)
#define FIELDS_c_nvmlProcessesUtilizationInfo_v1_t(NUMBER, TEXT, INPUT)                            \
    INPUT(unsigned, version) NUMBER(unsigned, processSamplesCount)                                 \
    INPUT(uint64_t, lastSeenTimeStamp) INPUT(c_nvmlProcessUtilizationInfo_v1_t *, procUtilArray)
/* sampleValue: a union of numbers. */
#define FIELDS_c_nvmlSample_t(NUMBER, TEXT, INPUT)                                                 \
    NUMBER(uint64_t, timeStamp) NUMBER(uint64_t, sampleValue)
#define FIELDS_c_nvmlEventData_t(NUMBER, TEXT, INPUT)                                              \
    NUMBER(handle_t, device) NUMBER(uint64_t, eventType) NUMBER(uint64_t, eventData)               \
    NUMBER(unsigned, gpuInstanceId) NUMBER(unsigned, computeInstanceId)
#define FIELDS_c_nvmlGridLicenseExpiry_t(NUMBER, TEXT, INPUT)                                      \
    NUMBER(unsigned, year) NUMBER(uint16_t, month) NUMBER(uint16_t, day) NUMBER(uint16_t, hour)    \
    NUMBER(uint16_t, min) NUMBER(uint16_t, sec) NUMBER(uint8_t, status)
#define FIELDS_c_nvmlGridLicensableFeature_v4_t(NUMBER, TEXT, INPUT)                               \
    NUMBER(unsigned, featureCode) NUMBER(unsigned, featureState) TEXT(128, licenseInfo)            \
    TEXT(128, productName) NUMBER(unsigned, featureEnabled)                                        \
    NUMBER(c_nvmlGridLicenseExpiry_t, licenseExpiry)

#define STRUCTS(EACH)                                                                              \
    EACH(c_nvmlUtilization_t)                                                                      \
    EACH(c_nvmlMemory_t)                                                                           \
    EACH(c_nvmlMemory_v2_t)                                                                        \
    EACH(c_nvmlBAR1Memory_t)                                                                       \
    EACH(nvmlPciInfo_t)                                                                            \
    EACH(c_nvmlTemperature_v1_t)                                                                   \
    EACH(c_nvmlMarginTemperature_v1_t)                                                             \
    EACH(c_nvmlRowRemapperHistogramValues)                                                         \
    EACH(c_nvmlEccSramErrorStatus_v1_t)                                                            \
    EACH(c_nvmlGpuFabricInfo_v2_t)                                                                 \
    EACH(c_nvmlGpuFabricInfo_v3_t)                                                                 \
    EACH(c_nvmlGpuFabricInfo_v4_t)                                                                 \
    EACH(c_nvmlGetMemoryLimits_v1_t)                                                               \
    EACH(c_nvmlUnrepairableMemory_v1_t)                                                            \
    EACH(c_nvmlRepairStatus_t)                                                                     \
    EACH(c_nvmlDramEncryptionInfo_t)                                                               \
    EACH(c_nvmlDeviceAddressingMode_t)                                                             \
    EACH(c_nvmlWorkloadPowerProfileCurrentProfiles_v1_t)                                           \
    EACH(c_nvmlEccSramUniqueUncorrectedErrorEntry_v1_t)                                            \
    EACH(c_nvmlEccSramUniqueUncorrectedErrorCounts_v1_t)                                           \
    EACH(c_nvmlConfComputeSystemState_t)                                                           \
    EACH(c_nvmlDeviceAttributes)                                                                   \
    EACH(c_nvmlGpmSupport_t)                                                                       \
    EACH(c_nvmlFieldValue_t)                                                                       \
    EACH(c_metricInfo_t)                                                                           \
    EACH(c_nvmlGpmMetric_t)                                                                        \
    EACH(c_nvmlProcessInfo_v2_t)                                                                   \
    EACH(c_nvmlProcessUtilizationSample_t)                                                         \
    EACH(c_nvmlProcessUtilizationInfo_v1_t)                                                        \
    EACH(c_nvmlProcessesUtilizationInfo_v1_t)                                                      \
    EACH(c_nvmlSample_t)                                                                           \
    EACH(c_nvmlEventData_t)                                                                        \
    EACH(c_nvmlGridLicenseExpiry_t)                                                                \
    EACH(c_nvmlGridLicensableFeature_v4_t)

STRUCT(c_nvmlGpuFabricClique_v1_t)
typedef c_nvmlGpuFabricClique_v1_t fabric_cliques[64];
typedef unsigned mask_255[8];
STRUCTS(STRUCT)

#endif
