/* nvmlDeviceGetFieldValues. NAME: `ID`, or `ID.SCOPE` for a scope other than 0. VALUE: `TYPE VALUE`
 * (TYPE of nvmlValueType_t: 0 double, 1 unsigned, 3 unsigned long long, 5 int …). `ID.return`: the
 * field's return code; `ID.cost`: its cost, else `*.cost`. */
#include "state.h"
#include "structures.h"

#include <stdio.h>
#include <stdlib.h>

static const char *field_text(int gpu, const c_nvmlFieldValue_t *field, const char *suffix) {
    char name[64];
    snprintf(name, sizeof name, "%u.%u%s", field->fieldId, field->scopeId, suffix);
    const char *text = find(gpu, "nvmlDeviceGetFieldValues", name);
    if (text || field->scopeId) return text;
    snprintf(name, sizeof name, "%u%s", field->fieldId, suffix);
    return find(gpu, "nvmlDeviceGetFieldValues", name);
}

API int nvmlDeviceGetFieldValues(handle_t device, int count, c_nvmlFieldValue_t *fields) {
    struct call call = call_begin_device("nvmlDeviceGetFieldValues", device, NO_KEY);
    pthread_mutex_lock(&lock);
    for (int i = 0; call.result == SUCCESS && i < count; i++) {
        c_nvmlFieldValue_t *field = &fields[i];
        const char *text = field_text(call.scope, field, ""), *code;
        char *rest = NULL;
        if (has_costs) {
            char cost[32];
            snprintf(cost, sizeof cost, "%u.cost", field->fieldId);
            call.cost += cost_of(&call, cost);
        }
        field->nvmlReturn = text ? SUCCESS : NOT_SUPPORTED;
        if ((code = field_text(call.scope, field, ".return"))) field->nvmlReturn = atoi(code);
        if (field->nvmlReturn != SUCCESS || !text) continue;
        field->valueType = (int)strtol(text, &rest, 0);
        if (field->valueType == 0) {
            double number = strtod(rest, NULL);
            memcpy(&field->value, &number, sizeof number);
        } else {
            uint64_t number = *rest ? strtoull(rest, NULL, 0) : 0;
            if (field->valueType == 1 || field->valueType == 5) number &= 0xFFFFFFFF;
            /* The driver leaves the rest of the union unwritten. */
            memset(&field->value, 0xAA, sizeof field->value);
            memcpy(&field->value, &number, field->valueType == 1 || field->valueType == 5 ? 4 : 8);
        }
    }
    pthread_mutex_unlock(&lock);
    return call_end(&call);
}
